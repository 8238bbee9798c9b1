{{/* Envoy in front of the pods: calls with the same value of the session header go to the same pod. */}}
{{- define "spotd.envoyConfig" -}}
node: {id: envoy, cluster: {{ include "spotd.fullname" . }}}
admin:
  # It can stop Envoy: nobody outside the pod reaches it. The listener "status" shows what may be seen.
  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}
static_resources:
  listeners:
    - name: status
      address: {socket_address: {address: 0.0.0.0, port_value: 9902}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: status
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: status
                      domains: ["*"]
                      routes:
                        - {match: {path: /ready}, route: {cluster: admin}}
                        - {match: {path: /stats/prometheus}, route: {cluster: admin}}
    - name: grpc
      address: {socket_address: {address: 0.0.0.0, port_value: 50051}}
      filter_chains:
        - name: grpc
          {{- if .Values.tls.enabled }}
          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2]
                tls_certificate_sds_secret_configs:
                  - {name: server, sds_config: {path_config_source: {path: /etc/envoy/certificate.yaml}}}
          {{- end }}
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: grpc
                codec_type: HTTP2
                # Streams last as long as their answers.
                stream_idle_timeout: 0s
                drain_timeout: {{ .Values.drainSeconds }}s
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: spotd
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          route:
                            cluster: spotd
                            timeout: 0s
                            hash_policy:
                              - header: {header_name: {{ .Values.routing.header }}}
                            # A pod that has just gone: what never reached it may go to the next one.
                            retry_policy:
                              retry_on: connect-failure,refused-stream
                              num_retries: 3
                              retry_host_predicate:
                                - name: envoy.retry_host_predicates.previous_hosts
                                  typed_config:
                                    "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                              host_selection_retry_max_attempts: 64
  clusters:
    - name: admin
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
    - name: spotd
      type: STRICT_DNS
      dns_lookup_family: V4_PREFERRED
      connect_timeout: 5s
      lb_policy: RING_HASH
      # A pod that is not ready loses its part of the ring, but never pulls the others into a panic.
      common_lb_config: {healthy_panic_threshold: {value: 0}}
      # How many calls may run is the pods' to say, with a reason and a delay; Envoy's own bounds are 1024 calls and 3 retries.
      circuit_breakers:
        thresholds:
          - {max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 100000}
      health_checks:
        - timeout: 5s
          interval: 5s
          unhealthy_threshold: 2
          healthy_threshold: 1
          grpc_health_check: {service_name: spotd.v1.InferenceService}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      {{- if .Values.tls.enabled }}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: {{ include "spotd.fullname" . }}-pods.{{ .Release.Namespace }}.svc
          common_tls_context:
            alpn_protocols: [h2]
            validation_context_sds_secret_config:
              {name: authorities, sds_config: {path_config_source: {path: /etc/envoy/authorities.yaml}}}
      {{- end }}
      load_assignment:
        cluster_name: spotd
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ include "spotd.fullname" . }}-pods.{{ .Release.Namespace }}.svc
                      port_value: 50051
{{- end -}}


{{/* The listener's certificate, and the authorities of the pods' certificates; read again when the secret changes. */}}
{{- define "spotd.envoyCertificate" -}}
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: server
    tls_certificate:
      watched_directory: {path: /etc/spotd-tls}
      certificate_chain: {filename: /etc/spotd-tls/tls.crt}
      private_key: {filename: /etc/spotd-tls/tls.key}
{{- end -}}
{{- define "spotd.envoyAuthorities" -}}
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: authorities
    validation_context:
      watched_directory: {path: /etc/spotd-tls}
      trusted_ca: {filename: /etc/spotd-tls/{{ .Values.tls.caKey }}}
      match_typed_subject_alt_names:
        - san_type: DNS
          matcher: {exact: {{ include "spotd.fullname" . }}-pods.{{ .Release.Namespace }}.svc}
{{- end -}}
