// Sends one event: java Send.java EVENT-ID < event.json. Java 17 or later, and nothing else.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

import static java.nio.charset.StandardCharsets.US_ASCII;

class Send {
    static final URI URL = URI.create(System.getenv("SEALSTREAM_URL"));
    static final String SOURCE = System.getenv("SEALSTREAM_SOURCE");
    static final String KEY_ID = System.getenv("SEALSTREAM_KEY_ID");
    static final SecureRandom RANDOM = new SecureRandom();
    static final HttpClient CLIENT = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();

    /** What stands in the file that a variable names, without what is around it. */
    static String file(String variable) throws Exception {
        return Files.readString(Path.of(System.getenv(variable))).strip();
    }

    /** A JWE in compact form. Its header is readable, and nobody can change it. Neither name has a character that JSON escapes. */
    static String seal(byte[] key, String eventId, byte[] payload) throws Exception {
        var encoder = Base64.getUrlEncoder().withoutPadding();
        var header = "{\"alg\":\"dir\",\"enc\":\"A256GCM\",\"kid\":\"%s\",\"jti\":\"%s\",\"aud\":\"%s\"}"
                .formatted(KEY_ID, eventId, SOURCE);
        var shielded = encoder.encodeToString(header.getBytes(US_ASCII));
        var nonce = new byte[12];
        RANDOM.nextBytes(nonce);
        var cipher = Cipher.getInstance("AES/GCM/NoPadding");
        cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(key, "AES"), new GCMParameterSpec(128, nonce));
        cipher.updateAAD(shielded.getBytes(US_ASCII));
        var sealed = cipher.doFinal(payload);
        var tag = sealed.length - 16;
        return String.join(".", shielded, "", encoder.encodeToString(nonce),
                encoder.encodeToString(Arrays.copyOf(sealed, tag)),
                encoder.encodeToString(Arrays.copyOfRange(sealed, tag, sealed.length)));
    }

    static HttpResponse<String> post(byte[] secret, String body) throws Exception {
        var timestamp = Long.toString(Instant.now().getEpochSecond());
        var mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(secret, "HmacSHA256"));
        var signature = mac.doFinal((timestamp + "." + body).getBytes(US_ASCII));
        var request = HttpRequest.newBuilder(URL).timeout(Duration.ofSeconds(30))
                .header("Content-Type", "application/jose")
                .header("X-Webhook-Timestamp", timestamp)
                .header("X-Webhook-Signature", HexFormat.of().formatHex(signature))
                .POST(BodyPublishers.ofString(body)).build();
        return CLIENT.send(request, BodyHandlers.ofString());
    }

    /** Until it is received. Each attempt is sealed and signed anew, under the same event id. */
    static HttpResponse<String> send(byte[] secret, byte[] key, String eventId, byte[] payload) throws Exception {
        for (var attempt = 0; attempt < 8; attempt++) {
            var wait = 100L << attempt;
            try {
                var answer = post(secret, seal(key, eventId, payload));
                var status = answer.statusCode();
                if (status != 408 && status != 429 && status < 500) {
                    return answer;
                }
                wait = Math.max(wait, 1000 * answer.headers().firstValueAsLong("retry-after").orElse(0));
            } catch (java.io.IOException error) {
                System.err.println(error);
            }
            Thread.sleep(wait);
        }
        throw new IllegalStateException(eventId + " was not received: send it again later, under the same id");
    }

    public static void main(String[] arguments) throws Exception {
        var secret = file("SEALSTREAM_SECRET_FILE").getBytes(US_ASCII);
        var key = HexFormat.of().parseHex(file("SEALSTREAM_KEY_FILE").replaceFirst("^hex:", ""));
        var answer = send(secret, key, arguments[0], System.in.readAllBytes());
        System.out.println(answer.statusCode() + " " + answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
