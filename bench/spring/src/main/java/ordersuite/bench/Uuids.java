package ordersuite.bench;

import java.time.Instant;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;

/** UUIDs of version 7 (RFC 9562): new ones go to the end of an index. */
final class Uuids {
    private Uuids() {}

    static UUID next() {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        long high = System.currentTimeMillis() << 16 | 0x7000 | random.nextLong(1 << 12);
        long low = random.nextLong() >>> 2 | 1L << 63;
        return new UUID(high, low);
    }

    /** The day on which it was made, which is its partition of the inbox. */
    static LocalDate dayOf(UUID id) {
        return Instant.ofEpochMilli(id.getMostSignificantBits() >>> 16).atOffset(ZoneOffset.UTC).toLocalDate();
    }
}
