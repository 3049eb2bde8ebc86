package ordersuite.bench;

import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.context.annotation.Profile;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.stereotype.Component;

/** Offsets are committed by the container, after what was polled is done ({@code AckMode.BATCH}, its default). */
final class Listeners {
    private Listeners() {}

    /** As it is usually written: a transaction for each record. */
    @Component
    @Profile("inventory & record")
    static class OneByOne {
        private final Inventory inventory;

        OneByOne(Inventory inventory) {
            this.inventory = inventory;
        }

        @KafkaListener(topics = "${bench.reads}", concurrency = "${bench.concurrency}")
        void onMessage(ConsumerRecord<String, byte[]> record) {
            inventory.reserve(record);
        }
    }

    /** As it would be written for speed: a transaction for each poll. */
    @Component
    @Profile("inventory & batch")
    static class Batches {
        private final Inventory inventory;

        Batches(Inventory inventory) {
            this.inventory = inventory;
        }

        @KafkaListener(topics = "${bench.reads}", concurrency = "${bench.concurrency}")
        void onMessages(List<ConsumerRecord<String, byte[]>> records) {
            inventory.reserveAll(records);
        }
    }
}
