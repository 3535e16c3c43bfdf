// Prints the events of a Kafka sink's topic: java -cp "$KAFKA_LIBS/*" Consume.java TOPIC. Java 17 or later, and kafka-clients.

import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

class Consume {
    static String header(ConsumerRecord<String, String> record, String name) {
        return new String(record.headers().lastHeader(name).value());
    }

    public static void main(String[] arguments) {
        var settings = Map.<String, Object>of(
                "bootstrap.servers", System.getenv("KAFKA_BOOTSTRAP"),
                "group.id", System.getenv().getOrDefault("KAFKA_GROUP", "orders"),
                "auto.offset.reset", "earliest",
                "enable.auto.commit", false,
                // Unless told so, Java's client shows what a transactional sink has given up, too.
                "isolation.level", "read_committed");
        var text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<>(settings, text, text)) {
            consumer.subscribe(List.of(arguments[0]));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    // Where the effect is a change in a database, store ce_webhookid with it, so that a repeat changes nothing.
                    System.out.println(header(record, "ce_webhookid") + " " + header(record, "ce_id") + " " + record.value());
                }
                // After the effects: whoever stops in between gets these events again.
                consumer.commitSync();
            }
        }
    }
}
