import java.net.URI;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.UnsupportedCallbackException;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/**
 * Lets a Kafka broker take logins as Amazon MSK does with IAM: the token is a presigned request for
 * kafka-cluster:Connect, whose signature is made anew here from the secret of the one access key there is.
 * The options region, accessKey and secretKey stand in the broker's sasl.jaas.config.
 */
public final class MskLogins implements AuthenticateCallbackHandler {
    private static final DateTimeFormatter TIME =
            DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);
    private static final long LONGEST_S = 900;
    private static final long CLOCKS_APART_S = 60;

    private Map<String, ?> options = Map.of();

    @Override
    public void configure(
            Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {
        options = entries.get(0).getOptions();
    }

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) throws UnsupportedCallbackException {
        for (Callback callback : callbacks) {
            if (!(callback instanceof OAuthBearerValidatorCallback asked)) {
                throw new UnsupportedCallbackException(callback);
            }
            try {
                asked.token(checked(asked.tokenValue()));
            } catch (Exception refused) {
                asked.error("invalid_token", refused.getMessage(), null);
            }
        }
    }

    private OAuthBearerToken checked(String value) throws Exception {
        String url = new String(Base64.getUrlDecoder().decode(value), StandardCharsets.UTF_8);
        URI uri = URI.create(url);
        String region = option("region");
        String host = "kafka." + region + ".amazonaws.com";
        require("https".equals(uri.getScheme()) && host.equals(uri.getHost()), "another host");
        TreeMap<String, String> query = new TreeMap<>();
        for (String pair : uri.getRawQuery().split("&")) {
            String[] parts = pair.split("=", 2);
            String before = query.put(decoded(parts[0]), decoded(parts[1]));
            require(before == null, "a parameter twice");
        }
        String signature = query.remove("X-Amz-Signature");
        query.remove("User-Agent");
        require("kafka-cluster:Connect".equals(query.get("Action")), "another action");
        require("AWS4-HMAC-SHA256".equals(query.get("X-Amz-Algorithm")), "another algorithm");
        require("host".equals(query.get("X-Amz-SignedHeaders")), "other headers");
        Instant made = Instant.from(TIME.parse(query.get("X-Amz-Date")));
        long valid = Long.parseLong(query.get("X-Amz-Expires"));
        require(valid > 0 && valid <= LONGEST_S, "valid for another time");
        Instant now = Instant.now();
        Instant ends = made.plusSeconds(valid);
        require(made.isBefore(now.plusSeconds(CLOCKS_APART_S)) && now.isBefore(ends), "not valid now");
        String day = query.get("X-Amz-Date").substring(0, 8);
        String scope = day + "/" + region + "/kafka-cluster/aws4_request";
        String granted = option("accessKey") + "/" + scope;
        require(granted.equals(query.get("X-Amz-Credential")), "another credential");
        String expected = signed(host, query, scope);
        boolean same = MessageDigest.isEqual(
                expected.getBytes(StandardCharsets.UTF_8), signature.getBytes(StandardCharsets.UTF_8));
        require(same, "another signature");
        return new Login(value, option("accessKey"), made.toEpochMilli(), ends.toEpochMilli());
    }

    private String signed(String host, TreeMap<String, String> query, String scope) throws Exception {
        StringBuilder sorted = new StringBuilder();
        for (Map.Entry<String, String> one : query.entrySet()) {
            sorted.append(sorted.length() == 0 ? "" : "&");
            sorted.append(encoded(one.getKey())).append('=').append(encoded(one.getValue()));
        }
        String request = "GET\n/\n" + sorted + "\nhost:" + host + "\n\nhost\n" + hash("");
        String text = "AWS4-HMAC-SHA256\n" + query.get("X-Amz-Date") + "\n" + scope + "\n" + hash(request);
        byte[] key = ("AWS4" + option("secretKey")).getBytes(StandardCharsets.UTF_8);
        for (String part : scope.split("/")) {
            key = mac(key, part);
        }
        return HexFormat.of().formatHex(mac(key, text));
    }

    private String option(String name) {
        return (String) options.get(name);
    }

    private static void require(boolean holds, String otherwise) {
        if (!holds) {
            throw new IllegalArgumentException(otherwise);
        }
    }

    private static byte[] mac(byte[] key, String text) throws Exception {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String hash(String text) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        return HexFormat.of().formatHex(digest.digest(text.getBytes(StandardCharsets.UTF_8)));
    }

    private static String decoded(String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }

    private static String encoded(String text) {
        String form = URLEncoder.encode(text, StandardCharsets.UTF_8);
        return form.replace("+", "%20").replace("*", "%2A").replace("%7E", "~");
    }

    private record Login(String value, String principalName, Long startTimeMs, long lifetimeMs)
            implements OAuthBearerToken {
        @Override
        public Set<String> scope() {
            return Set.of();
        }
    }
}
