import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Asks by both of Java's own clients, as a program that was never told of a proxy. */
public class Ask {
    public static void main(String[] arguments) throws Exception {
        URI place = URI.create(arguments[0]);
        String bearer = "Bearer " + System.getenv("TOKEN");
        HttpURLConnection old = (HttpURLConnection) place.toURL().openConnection();
        old.setRequestProperty("Authorization", bearer);
        System.out.print(new String(old.getInputStream().readAllBytes()));
        HttpRequest request = HttpRequest.newBuilder(place)
            .header("Authorization", bearer)
            .POST(HttpRequest.BodyPublishers.ofByteArray(new byte[100_000]))
            .build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.print(answer.version() + " " + answer.body());
    }
}
