import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Asks as Java's own HTTP client does, with Java's own trust store. */
class Client {
    public static void main(String[] args) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("https://api.stripe.com/v1/charges"))
                .header("Authorization", "Bearer " + System.getenv("STRIPE_API_KEY"))
                .build();
        System.out.println(HttpClient.newHttpClient().send(request, BodyHandlers.ofString()).body());
        try {
            HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create("https://nowhere.example.com/")).build(), BodyHandlers.ofString());
        } catch (java.net.ConnectException e) {
            System.out.println("unreachable");
        }
    }
}
