package ordersuite.bench;

import com.fasterxml.jackson.annotation.JsonProperty;
import jakarta.validation.Valid;
import jakarta.validation.constraints.Email;
import jakarta.validation.constraints.Max;
import jakarta.validation.constraints.Min;
import jakarta.validation.constraints.NotBlank;
import jakarta.validation.constraints.NotEmpty;
import jakarta.validation.constraints.NotNull;
import jakarta.validation.constraints.Size;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.temporal.ChronoUnit;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.springframework.context.annotation.Profile;
import org.springframework.http.HttpStatus;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.stereotype.Service;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;
import tools.jackson.databind.json.JsonMapper;

/** POST /orders: the idempotency key, the order and its event in one transaction for each request. */
@RestController
@Profile("orders")
class Orders {
    private final Placing placing;

    Orders(Placing placing) {
        this.placing = placing;
    }

    @PostMapping("/orders")
    ResponseEntity<byte[]> place(@RequestHeader("Idempotency-Key") String key, @Valid @RequestBody PlaceOrder request) {
        return ResponseEntity.accepted().contentType(MediaType.APPLICATION_JSON).body(placing.place(key, request));
    }

    @GetMapping("/readyz")
    String ready() {
        return "ready";
    }

    record PlaceOrder(
            @NotNull @Valid Customer customer,
            @NotEmpty @Size(max = 100) List<@Valid Line> lines,
            @JsonProperty("payment_method") @NotBlank String paymentMethod) {}

    record Customer(@NotBlank @Email String email, String phone) {}

    record Line(@NotBlank String sku, @Min(1) @Max(1_000) long quantity) {}

    record Placed(@JsonProperty("order_id") UUID orderId, String status, String message) {}

    @Service
    @Profile("orders")
    static class Placing {
        private final JdbcClient jdbc;
        private final JsonMapper json;
        private final Outbox outbox;
        private final Map<String, OrderPlaced.Money> prices = new HashMap<>();

        Placing(JdbcClient jdbc, JsonMapper json, Outbox outbox) {
            this.jdbc = jdbc;
            this.json = json;
            this.outbox = outbox;
            jdbc.sql("select sku, price_minor, currency from products").query(result -> {
                prices.put(result.getString(1), new OrderPlaced.Money(result.getLong(2), result.getString(3)));
            });
        }

        /** The answer's body: of the first request with this key. */
        @Transactional
        public byte[] place(String key, PlaceOrder request) {
            byte[] fingerprint = sha256(json.writeValueAsBytes(request));
            UUID orderId = Uuids.next();
            byte[] answer = json.writeValueAsBytes(new Placed(orderId, "placed", "Order placed"));
            int fresh = jdbc.sql("insert into idempotency_keys (key, fingerprint, order_id, status, headers, body) "
                            + "values (?, ?, ?, 202, '{}', ?) on conflict do nothing")
                    .params(key, fingerprint, orderId, answer)
                    .update();
            if (fresh == 0) {
                return answered(key, fingerprint);
            }
            List<OrderPlaced.Line> lines = request.lines().stream().map(this::priced).toList();
            long total = lines.stream().mapToLong(line -> line.quantity() * line.unitPriceMinor()).sum();
            String currency = prices.get(lines.get(0).sku()).currency();
            OffsetDateTime now = OffsetDateTime.now(ZoneOffset.UTC).truncatedTo(ChronoUnit.MICROS);
            var event = new OrderPlaced(
                    orderId,
                    now.toString(),
                    new OrderPlaced.Customer(request.customer().email(), request.customer().phone()),
                    lines,
                    new OrderPlaced.Money(total, currency),
                    request.paymentMethod());
            UUID eventId = outbox.add(new Outbox.Event(orderId, OrderPlaced.TYPE, event, null));
            jdbc.sql("insert into orders (order_id, placed_event_id, trace_id, trace_sampled, placed_at, total_minor, "
                            + "currency, customer_email, customer_phone, lines) "
                            + "values (?, ?, ?, false, ?, ?, ?, ?, ?, ?::jsonb)")
                    .params(Arrays.asList(
                            orderId,
                            eventId,
                            Uuids.next(),
                            now,
                            total,
                            currency,
                            request.customer().email(),
                            request.customer().phone(),
                            json.writeValueAsString(lines)))
                    .update();
            return answer;
        }

        private byte[] answered(String key, byte[] fingerprint) {
            Optional<byte[]> body = jdbc.sql("select body from idempotency_keys where key = ? and fingerprint = ?")
                    .params(key, fingerprint)
                    .query(byte[].class)
                    .optional();
            return body.orElseThrow(() -> new ResponseStatusException(
                    HttpStatus.UNPROCESSABLE_CONTENT, "the Idempotency-Key was used for another order"));
        }

        private OrderPlaced.Line priced(Line line) {
            OrderPlaced.Money price = prices.get(line.sku());
            if (price == null) {
                throw new ResponseStatusException(HttpStatus.UNPROCESSABLE_CONTENT, "there is no " + line.sku());
            }
            return new OrderPlaced.Line(line.sku(), line.quantity(), price.amountMinor());
        }

        private static byte[] sha256(byte[] bytes) {
            try {
                return MessageDigest.getInstance("SHA-256").digest(bytes);
            } catch (NoSuchAlgorithmException error) {
                throw new IllegalStateException(error);
            }
        }
    }
}
