package ordersuite.bench;

import com.fasterxml.jackson.annotation.JsonProperty;
import java.util.List;
import java.util.UUID;

/** {@code order.placed.v1}. */
record OrderPlaced(
        @JsonProperty("order_id") UUID orderId,
        @JsonProperty("placed_at") String placedAt,
        Customer customer,
        List<Line> lines,
        Money total,
        @JsonProperty("payment_method") String paymentMethod) {

    static final String TYPE = "order.placed.v1";

    record Customer(String email, String phone) {}

    record Line(String sku, long quantity, @JsonProperty("unit_price_minor") long unitPriceMinor) {}

    record Money(@JsonProperty("amount_minor") long amountMinor, String currency) {}
}
