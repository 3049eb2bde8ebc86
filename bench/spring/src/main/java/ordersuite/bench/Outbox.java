package ordersuite.bench;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.jdbc.support.SqlArrayValue;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.scheduling.annotation.Scheduled;
import org.springframework.stereotype.Component;
import org.springframework.transaction.support.TransactionTemplate;
import tools.jackson.core.type.TypeReference;
import tools.jackson.databind.json.JsonMapper;

/** The outbox: rows are written in the transaction that makes them true, published by a poller, and deleted once the broker has them. */
@Component
class Outbox {
    private static final int BATCH = 1_000;
    private static final TypeReference<Map<String, String>> HEADERS = new TypeReference<>() {};

    private final JdbcClient jdbc;
    private final TransactionTemplate transactions;
    private final KafkaTemplate<String, byte[]> kafka;
    private final JsonMapper json;
    private final String topic;
    private final String source;

    Outbox(
            JdbcClient jdbc,
            TransactionTemplate transactions,
            KafkaTemplate<String, byte[]> kafka,
            JsonMapper json,
            @Value("${bench.emits}") String topic,
            @Value("${spring.application.name}") String service) {
        this.jdbc = jdbc;
        this.transactions = transactions;
        this.kafka = kafka;
        this.json = json;
        this.topic = topic;
        this.source = "/" + service;
    }

    /** An event about an order, in the caller's transaction: its id. */
    UUID add(Event event) {
        UUID id = Uuids.next();
        jdbc.sql("insert into outbox (topic, key, headers, payload) values (?, ?, ?, ?)")
                .params(topic, key(event.orderId()), headers(id, event), json.writeValueAsBytes(event.body()))
                .update();
        return id;
    }

    /** The same of many, by one statement. */
    void addAll(List<Event> events) {
        byte[][] keys = events.stream().map(event -> key(event.orderId())).toArray(byte[][]::new);
        byte[][] headers = events.stream().map(event -> headers(Uuids.next(), event)).toArray(byte[][]::new);
        byte[][] payloads =
                events.stream().map(event -> json.writeValueAsBytes(event.body())).toArray(byte[][]::new);
        jdbc.sql("insert into outbox (topic, key, headers, payload) "
                        + "select ?, k, h, p from unnest(?::bytea[], ?::bytea[], ?::bytea[]) as e (k, h, p)")
                .params(topic, bytes(keys), bytes(headers), bytes(payloads))
                .update();
    }

    /** {@code cause} is the id of the event that it follows from, if any. */
    record Event(UUID orderId, String type, Object body, String cause) {}

    @Scheduled(fixedDelay = 10)
    void publish() {
        while (transactions.execute(status -> publishBatch()) == BATCH) {}
    }

    private int publishBatch() {
        List<Row> rows = jdbc.sql("select id, topic, key, headers, payload from outbox order by id limit ? for update skip locked")
                .param(BATCH)
                .query((result, number) -> new Row(
                        result.getLong(1), result.getString(2), result.getBytes(3), result.getBytes(4), result.getBytes(5)))
                .list();
        if (rows.isEmpty()) {
            return 0;
        }
        List<CompletableFuture<?>> sent = new ArrayList<>(rows.size());
        for (Row row : rows) {
            var record = new ProducerRecord<>(row.topic(), new String(row.key(), StandardCharsets.UTF_8), row.payload());
            json.readValue(row.headers(), HEADERS)
                    .forEach((name, value) -> record.headers().add(name, value.getBytes(StandardCharsets.UTF_8)));
            sent.add(kafka.send(record));
        }
        // What the broker doesn't have stays: the exception rolls the transaction back.
        try {
            for (CompletableFuture<?> one : sent) {
                one.get();
            }
        } catch (InterruptedException | ExecutionException error) {
            throw new IllegalStateException(error);
        }
        jdbc.sql("delete from outbox where id = any(?)")
                .param(new SqlArrayValue("bigint", rows.stream().map(Row::id).toArray()))
                .update();
        return rows.size();
    }

    private record Row(long id, String topic, byte[] key, byte[] headers, byte[] payload) {}

    private static byte[] key(UUID orderId) {
        return orderId.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static SqlArrayValue bytes(byte[][] values) {
        return new SqlArrayValue("bytea", (Object[]) values);
    }

    private byte[] headers(UUID id, Event event) {
        Map<String, String> headers = new LinkedHashMap<>();
        headers.put("ce_specversion", "1.0");
        headers.put("ce_id", id.toString());
        headers.put("ce_source", source);
        headers.put("ce_type", event.type());
        headers.put("ce_time", Instant.now().truncatedTo(ChronoUnit.MICROS).toString());
        headers.put("ce_subject", event.orderId().toString());
        headers.put("content-type", "application/json");
        if (event.cause() != null) {
            headers.put("ce_causationid", event.cause());
        }
        return json.writeValueAsBytes(headers);
    }
}
