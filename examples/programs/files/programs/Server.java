import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;

/** Counts what it is asked, for each name by itself, and returns a digest of what it was sent. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        var counts = new ConcurrentHashMap<String, Integer>();
        var server = HttpServer.create(new InetSocketAddress(8080), 100);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", exchange -> {
            try {
                var body = exchange.getRequestBody().readAllBytes();
                var digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
                var count = counts.merge(exchange.getRequestURI().getPath(), 1, Integer::sum);
                var answer = (count + " " + digest + " " + ProcessHandle.current().pid() + "\n").getBytes();
                exchange.sendResponseHeaders(200, answer.length);
                exchange.getResponseBody().write(answer);
                exchange.close();
            } catch (Exception e) {
                throw new RuntimeException(e);
            }
        });
        server.start();
    }
}
