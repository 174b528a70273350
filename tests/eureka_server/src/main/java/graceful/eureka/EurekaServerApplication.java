package graceful.eureka;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Bean;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.config.annotation.web.configurers.AbstractHttpConfigurer;
import org.springframework.security.web.SecurityFilterChain;

/** A Eureka server whose only own property, {@code graceful.security}, chooses how it is protected. */
@SpringBootApplication
@EnableEurekaServer
public class EurekaServerApplication {

    /** How the server is protected; {@code CSRF} is basic auth with Spring Security's defaults left on. */
    enum Security { OPEN, BASIC, CSRF }

    public static void main(String[] arguments) {
        SpringApplication.run(EurekaServerApplication.class, arguments);
    }

    @Bean
    SecurityFilterChain securityFilterChain(
            HttpSecurity http, @Value("${graceful.security:open}") Security security) throws Exception {
        if (security != Security.CSRF) {
            http.csrf(AbstractHttpConfigurer::disable);
        }
        if (security == Security.OPEN) {
            return http.authorizeHttpRequests(requests -> requests.anyRequest().permitAll()).build();
        }
        return http.authorizeHttpRequests(requests -> requests.anyRequest().authenticated())
                .httpBasic(Customizer.withDefaults())
                .build();
    }
}
