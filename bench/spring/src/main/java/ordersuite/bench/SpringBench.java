package ordersuite.bench;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.scheduling.annotation.EnableScheduling;

/**
 * Two of the suite's services as they are usually written with Spring, on the suite's own tables and topics. Profiles:
 * {@code orders} (POST /orders), or {@code inventory} with {@code record} or {@code batch}.
 */
@SpringBootApplication
@EnableScheduling
public class SpringBench {
    public static void main(String[] arguments) {
        SpringApplication.run(SpringBench.class, arguments);
    }
}
