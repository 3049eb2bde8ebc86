package ordersuite.bench;

import com.fasterxml.jackson.annotation.JsonProperty;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.context.annotation.Profile;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.jdbc.support.SqlArrayValue;
import org.springframework.stereotype.Service;
import org.springframework.transaction.annotation.Transactional;
import tools.jackson.databind.json.JsonMapper;

/** Reserves stock for placed orders: an inbox row, the stock, the reservation and an outbox row in one transaction. */
@Service
@Profile("inventory")
class Inventory {
    private final JdbcClient jdbc;
    private final JsonMapper json;
    private final Outbox outbox;

    Inventory(JdbcClient jdbc, JsonMapper json, Outbox outbox) {
        this.jdbc = jdbc;
        this.json = json;
        this.outbox = outbox;
    }

    /** One event in a transaction of its own. */
    @Transactional
    public void reserve(ConsumerRecord<String, byte[]> record) {
        Incoming event = read(record);
        if (event == null || !claim(event.id())) {
            return;
        }
        Map<String, Long> lines = event.lines();
        Map<String, Long> free = lock(lines.keySet());
        Answer answer = decide(event, free);
        if (answer.reserved()) {
            lines.forEach((sku, quantity) ->
                    jdbc.sql("update stock set reserved = reserved + ?, updated_at = now() where sku = ?")
                            .params(quantity, sku)
                            .update());
        }
        jdbc.sql("insert into reservations (order_id, state, lines) values (?, ?, ?::jsonb)")
                .params(event.order().orderId(), answer.state(), json.writeValueAsString(lines))
                .update();
        outbox.add(answer.event());
    }

    /** Many events in one transaction, with one statement for each kind of row. */
    @Transactional
    public void reserveAll(List<ConsumerRecord<String, byte[]>> records) {
        List<Incoming> read = records.stream().map(this::read).filter(event -> event != null).toList();
        Set<UUID> claimed = claimAll(read);
        List<Incoming> events = read.stream().filter(event -> claimed.remove(event.id())).toList();
        Set<String> skus = new HashSet<>();
        events.forEach(event -> skus.addAll(event.lines().keySet()));
        Map<String, Long> free = lock(skus);
        Map<String, Long> taken = new TreeMap<>();
        List<Answer> answers = new ArrayList<>(events.size());
        for (Incoming event : events) {
            Answer answer = decide(event, free);
            answers.add(answer);
            if (answer.reserved()) {
                event.lines().forEach((sku, quantity) -> taken.merge(sku, quantity, Long::sum));
            }
        }
        jdbc.sql("update stock s set reserved = s.reserved + t.quantity, updated_at = now() "
                        + "from unnest(?::text[], ?::bigint[]) as t (sku, quantity) where s.sku = t.sku")
                .params(texts(taken.keySet().toArray()), new SqlArrayValue("bigint", taken.values().toArray()))
                .update();
        jdbc.sql("insert into reservations (order_id, state, lines) select * from unnest(?::uuid[], ?::text[], ?::jsonb[])")
                .params(
                        uuids(events.stream().map(event -> event.order().orderId()).toArray()),
                        texts(answers.stream().map(Answer::state).toArray()),
                        texts(events.stream().map(event -> json.writeValueAsString(event.lines())).toArray()))
                .update();
        outbox.addAll(answers.stream().map(Answer::event).toList());
    }

    /** {@code null} for events of other types. */
    private Incoming read(ConsumerRecord<String, byte[]> record) {
        if (!OrderPlaced.TYPE.equals(header(record, "ce_type"))) {
            return null;
        }
        return new Incoming(UUID.fromString(header(record, "ce_id")), json.readValue(record.value(), OrderPlaced.class));
    }

    private static String header(ConsumerRecord<?, ?> record, String name) {
        return new String(record.headers().lastHeader(name).value(), StandardCharsets.UTF_8);
    }

    private boolean claim(UUID id) {
        return jdbc.sql("insert into processed_events (day, event_id, outcome, attempt) values (?, ?, 'done', 1) "
                                + "on conflict do nothing")
                        .params(Uuids.dayOf(id), id)
                        .update()
                == 1;
    }

    private Set<UUID> claimAll(List<Incoming> events) {
        Object[] days = events.stream().map(event -> Uuids.dayOf(event.id())).toArray();
        Object[] ids = events.stream().map(Incoming::id).toArray();
        return new HashSet<>(jdbc.sql("insert into processed_events (day, event_id, outcome, attempt) "
                        + "select d, e, 'done', 1 from unnest(?::date[], ?::uuid[]) as c (d, e) order by d, e "
                        + "on conflict do nothing returning event_id")
                .params(new SqlArrayValue("date", days), uuids(ids))
                .query((result, number) -> result.getObject(1, UUID.class))
                .list());
    }

    /** What is free of each SKU, whose rows are locked in one order until the transaction's end. */
    private Map<String, Long> lock(Set<String> skus) {
        Map<String, Long> free = new HashMap<>();
        jdbc.sql("select sku, stock - reserved - sold from stock where sku = any(?) order by sku for update")
                .param(texts(skus.toArray()))
                .query(result -> {
                    free.put(result.getString(1), result.getLong(2));
                });
        return free;
    }

    /** Every line or none; takes what is reserved from {@code free}. */
    private static Answer decide(Incoming event, Map<String, Long> free) {
        UUID orderId = event.order().orderId();
        for (Map.Entry<String, Long> line : event.lines().entrySet()) {
            long available = free.getOrDefault(line.getKey(), 0L);
            if (available < line.getValue()) {
                var body = new StockRejected(orderId, line.getKey(), line.getValue(), available);
                return new Answer("rejected", event.answer("stock.rejected.v1", body));
            }
        }
        event.lines().forEach((sku, quantity) -> free.merge(sku, -quantity, Long::sum));
        return new Answer("reserved", event.answer("stock.reserved.v1", new StockReserved(orderId)));
    }

    private static SqlArrayValue texts(Object[] values) {
        return new SqlArrayValue("text", values);
    }

    private static SqlArrayValue uuids(Object[] values) {
        return new SqlArrayValue("uuid", values);
    }

    private record Incoming(UUID id, OrderPlaced order) {
        /** How many of each SKU, sorted. */
        Map<String, Long> lines() {
            Map<String, Long> lines = new TreeMap<>();
            order.lines().forEach(line -> lines.merge(line.sku(), line.quantity(), Long::sum));
            return lines;
        }

        Outbox.Event answer(String type, Object body) {
            return new Outbox.Event(order.orderId(), type, body, id.toString());
        }
    }

    private record Answer(String state, Outbox.Event event) {
        boolean reserved() {
            return state.equals("reserved");
        }
    }

    private record StockReserved(@JsonProperty("order_id") UUID orderId) {}

    private record StockRejected(@JsonProperty("order_id") UUID orderId, String sku, long requested, long available) {}
}
