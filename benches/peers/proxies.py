"""The proxies that are compared: each one's configuration and its start. Everything listens on 127.0.0.1 only.

Every peer does the same work: HTTP/1.1 keep-alive to three upstreams in turn, one JSON line for each request, events of a stream
passed on as they come, TLS 1.3 with ALPN `h2, http/1.1` on the second port.
"""
import collections
import functools
import glob
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOME = os.environ.get("BENCH_HOME") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "windward-bench")
BIN = os.environ.get("BENCH_BIN", HOME + "/bin")
RUN = pathlib.Path(os.environ.get("BENCH_RUN", HOME + "/run"))
UP, UPTLS = [19101, 19102, 19103], [19201, 19202, 19203]
# One core for the proxy, another one for everything else.
PROXY_CPU, LOAD_CPU = {0}, {1}
FAR = 1_000_000_000
started = []


def spawn(cmd, cpus, log=None, env=None):
    """Starts a program on some cores, in a session of its own."""
    out = open(log, "ab") if log else subprocess.DEVNULL
    p = subprocess.Popen([str(x) for x in cmd], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                         env={**os.environ, **(env or {})}, start_new_session=True,
                         preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    started.append(p)
    return p


def stop(p):
    for s in (signal.SIGTERM, signal.SIGKILL):
        if p.poll() is None:
            try:
                os.killpg(p.pid, s)
                p.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


def stop_all():
    for p in reversed(started):
        stop(p)


def tree(pid):
    """A process and all that came of it."""
    kids = collections.defaultdict(list)
    for d in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = pathlib.Path(f"/proc/{d}/stat").read_text()
        except OSError:
            continue
        kids[int(stat[stat.rindex(")") + 2:].split()[1])].append(int(d))
    out, todo = [], [pid]
    while todo:
        out.append(todo.pop())
        todo += kids[out[-1]]
    return out


@functools.cache
def certs():
    """A certificate for this run. No CA certificate: a client that verifies refuses one of those as a server's."""
    RUN.mkdir(parents=True, exist_ok=True)
    cert, key, conf = RUN / "cert.pem", RUN / "key.pem", RUN / "cert.conf"
    conf.write_text("[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=localhost\n"
                    "[ext]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-config", conf, "-keyout", key, "-out", cert, "-days", "30"], check=True, stderr=subprocess.DEVNULL)
    (RUN / "both.pem").write_text(cert.read_text() + key.read_text())
    return str(cert), str(key)


def upstream():
    """The mock model endpoint."""
    cert, key = certs()
    ports = ["--ports", ",".join(map(str, UP)), "--tls-ports", ",".join(map(str, UPTLS))]
    p = spawn([f"{BIN}/wb-upstream", *ports, "--cert", cert, "--key", key], LOAD_CPU, RUN / "upstream.log")
    time.sleep(0.3)
    if p.poll() is not None:
        raise SystemExit("the mock upstream did not start: " + (RUN / "upstream.log").read_text()[-300:])
    return p


class Proxy:
    """One proxy: `start` writes its configuration and returns its process."""
    slow = False  # a gateway of the interpreted kind, which gets a lighter load
    headers = ""
    has = {"plain", "tls", "h2", "uptls"}
    settle = 0.5

    def __init__(self, name, port, args, uptls=False):
        self.name, self.port, self.tport, self.args, self.uptls = name, port, port + 100, args, uptls
        self.dir = RUN / (name.replace("/", "_") + ("@uptls" if uptls else ""))
        self.dir.mkdir(parents=True, exist_ok=True)
        self.log, self.err = self.dir / "access.log", self.dir / "stderr.log"
        self.cert, self.key = certs()

    @property
    def ups(self):
        return UPTLS if self.uptls else UP

    def up(self):
        for f in (self.log, self.err):
            f.unlink(missing_ok=True)
        self.p = self.start()
        for _ in range(600):
            if self.p.poll() is not None:
                raise RuntimeError("it ended: " + (self.err.read_text()[-1500:] if self.err.exists() else ""))
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"nothing listens on port {self.port}")
        time.sleep(self.settle)
        return self

    def pids(self):
        return tree(self.p.pid)

    def write(self, name, text):
        (self.dir / name).write_text(text)
        return str(self.dir / name)


class Windward(Proxy):
    binary = ""

    def start(self):
        scheme = "https" if self.uptls else "http"
        ups = [f"{scheme}://127.0.0.1:{p}" for p in self.ups]
        values = {"port": self.port, "tls_port": self.tport, "log": self.log, "cert": self.cert, "key": self.key,
                  "workers": self.args.workers, "dir": self.dir, "up0": ups[0], "up1": ups[1], "up2": ups[2],
                  # Over http a CA would only earn a warning.
                  "ca": f"ca_file: {self.cert}" if self.uptls else ""}
        text = pathlib.Path(self.args.windward_config).read_text()
        for k, v in values.items():
            text = text.replace("{{" + k + "}}", str(v))
        # Apart from the log, as in /etc and /var/log: Windward watches the folder that its configuration lies in.
        (self.dir / "conf").mkdir(exist_ok=True)
        values["config"] = self.write("conf/windward.yaml", text)
        cmd = f"{shlex.quote(self.binary)} serve -c {{config}}" if self.binary else self.args.windward_cmd
        return spawn(shlex.split(cmd.format(**values)), PROXY_CPU, self.err)


class Nginx(Proxy):
    stream, buffering = False, "off"  # buffering would hold events back

    def start(self):
        servers = "".join(f"server 127.0.0.1:{p};" for p in self.ups)
        conf = f"""worker_processes {self.args.workers}; worker_rlimit_nofile 65536; daemon off;
pid {self.dir}/pid; error_log {self.err} error;
events {{ worker_connections 30000; multi_accept off; }}
"""
        if self.stream:
            conf = f"""load_module /usr/lib/nginx/modules/ngx_stream_module.so;
{conf}stream {{ upstream u {{ {servers} }} server {{ listen 127.0.0.1:{self.port} backlog=8192; proxy_pass u; }} }}
"""
        else:
            conf += self.http(servers)
        return spawn(["nginx", "-p", self.dir, "-c", self.write("nginx.conf", conf)], PROXY_CPU, self.err)

    def http(self, servers):
        fields = ('{"ts":"$time_iso8601","method":"$request_method","path":"$uri","status":$status,"up":"$upstream_addr",'
                  '"bytes":$body_bytes_sent,"dur":$request_time}')
        temp = " ".join(f"{n}_temp_path {self.dir}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""http {{
 log_format j escape=json '{fields}'; access_log {self.log} j buffer=64k flush=1s;
 keepalive_requests {FAR}; keepalive_timeout 3600s; {temp}
 client_max_body_size 20m; client_body_buffer_size 1m; http2_max_requests {FAR}; http2_max_concurrent_streams 256;
 upstream u {{ {servers} keepalive 8192; keepalive_requests {FAR}; }}
 server {{
  listen 127.0.0.1:{self.port} backlog=8192;
  listen 127.0.0.1:{self.tport} ssl http2 backlog=8192;
  ssl_certificate {self.cert}; ssl_certificate_key {self.key}; ssl_protocols TLSv1.3;
  location / {{
   proxy_pass {"https" if self.uptls else "http"}://u; proxy_http_version 1.1; proxy_buffering {self.buffering};
   proxy_set_header Connection ""; proxy_set_header Host $host; proxy_read_timeout 600s; proxy_ssl_protocols TLSv1.3;
  }} }} }}
"""


class NginxStream(Nginx):
    stream, has = True, {"plain"}


class NginxBuf(Nginx):
    buffering = "on"


class Haproxy(Proxy):
    mode = "http"
    nodelay = False  # without `option http-no-delay` HAProxy holds small chunks back for up to 40 ms (MSG_MORE)

    def start(self):
        tls = " ssl verify none alpn http/1.1" if self.uptls else ""
        http = self.mode == "http"
        fmt = '{"ts":"%t","method":"%HM","path":"%HP","status":%ST,"up":"%s","bytes":%B,"dur_ms":%Ta}'
        option = ["option http-no-delay"] if self.nodelay else []
        lines = ["global", f"nbthread {self.args.workers}", "maxconn 9000", "log stdout format raw local0",
                 "defaults", f"mode {self.mode}", "timeout connect 5s", "timeout client 3600s", "timeout server 3600s",
                 "timeout http-keep-alive 3600s", *option,
                 "frontend f", f"bind 127.0.0.1:{self.port} backlog 8192"]
        if http:
            lines += [f"bind 127.0.0.1:{self.tport} ssl crt {RUN}/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3",
                      "log global", f"log-format {shlex.quote(fmt)}"]
        lines += ["default_backend b", "backend b", "balance roundrobin", *(["http-reuse always"] if http else []), *option]
        lines += [f"server s{i} 127.0.0.1:{p}{tls} pool-max-conn -1" for i, p in enumerate(self.ups)]
        return spawn(["haproxy", "-db", "-f", self.write("haproxy.cfg", "\n".join(lines) + "\n")], PROXY_CPU, self.log)


class HaproxyTcp(Haproxy):
    mode, has = "tcp", {"plain"}


class HaproxyNodelay(Haproxy):
    nodelay = True


class Envoy(Proxy):
    settle = 1.5
    TYPES = "type.googleapis.com/envoy.extensions."

    def start(self):
        at = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        cluster = {"name": "u", "type": "STATIC", "lb_policy": "ROUND_ROBIN", "connect_timeout": "5s",
                   "load_assignment": {"cluster_name": "u", "endpoints": [
                       {"lb_endpoints": [{"endpoint": {"address": at(p)}} for p in self.ups]}]},
                   "circuit_breakers": {"thresholds": [
                       {"max_connections": FAR, "max_pending_requests": FAR, "max_requests": FAR, "max_retries": 3}]}}
        if self.uptls:
            cluster["transport_socket"] = self.tls("UpstreamTlsContext", {})
        down = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [
            {"certificate_chain": {"filename": self.cert}, "private_key": {"filename": self.key}}]}
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": self.manager()}]}
        listener = lambda name, port, more: {"name": name, "address": at(port), "filter_chains": [{**chain, **more}],
                                             "tcp_backlog_size": 8192}
        listeners = [listener("plain", self.port, {}),
                     listener("tls", self.tport, {"transport_socket": self.tls("DownstreamTlsContext", down)})]
        conf = json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster]}})
        found = glob.glob(HOME + "/venv-envoy/lib/python3*/site-packages/envoy/_bin/envoy")
        exe = os.environ.get("ENVOY_BIN") or (found + ["envoy"])[0]
        return spawn([exe, "-c", self.write("envoy.json", conf), "--concurrency", self.args.workers, "--base-id", self.port,
                      "-l", "error"], PROXY_CPU, self.err)

    def tls(self, context, more):
        only = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
        return {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": f"{self.TYPES}transport_sockets.tls.v3.{context}", "common_tls_context": {"tls_params": only, **more}}}

    def manager(self):
        fields = {"ts": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%",
                  "up": "%UPSTREAM_HOST%", "bytes": "%BYTES_SENT%", "dur": "%DURATION%"}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "u", "timeout": "0s"}}
        return {"@type": self.TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "b", "stream_idle_timeout": "3600s", "generate_request_id": False,
                "http2_protocol_options": {"max_concurrent_streams": 256},
                "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
                    "@type": self.TYPES + "access_loggers.file.v3.FileAccessLog", "path": str(self.log),
                    "log_format": {"json_format": fields}}}],
                "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [route]}]},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                    "@type": self.TYPES + "filters.http.router.v3.Router"}}]}


class Own(Proxy):
    """One of the minimal forwarders here."""
    exe, options = "", []

    def start(self):
        tls = ["--upstream-tls"] if self.uptls else []
        return spawn([f"{BIN}/{self.exe}", "--listen", self.port, "--tls-listen", self.tport, "--cert", self.cert,
                      "--key", self.key, "--upstreams", ",".join(map(str, self.ups)), "--log", self.log,
                      "--workers", self.args.workers, *self.options, *tls], PROXY_CPU, self.err)


class Pingora(Own):
    exe = "pingora-fwd"


def hyper(mode, client, exe="wb-hyper"):
    has = Proxy.has - ({"uptls"} if client == "legacy" else set())
    return type("Hyper", (Own,), {"exe": exe, "options": ["--mode", mode, "--client", client], "has": has})


class TcpRelay(Proxy):
    has = {"plain"}

    def start(self):
        return spawn([f"{BIN}/wb-tcprelay", "--listen", self.port, "--upstreams", ",".join(map(str, UP))], PROXY_CPU, self.err)


class Direct(Proxy):
    """No proxy: what the load generator and the mock take by themselves."""
    has = {"plain"}

    def up(self):
        self.port = UP[0]
        return self

    def pids(self):
        return []


class Litellm(Proxy):
    slow, settle, has = True, 6, {"plain"}

    def start(self):
        model = '  - model_name: mock-model\n    litellm_params: {{model: openai/mock-model, api_base: "http://127.0.0.1:{}/v1", api_key: sk-x}}'
        conf = "model_list:\n" + "\n".join(map(model.format, UP)) + """
router_settings: {routing_strategy: simple-shuffle, num_retries: 0}
litellm_settings: {telemetry: false, json_logs: true}
"""
        exe = os.environ.get("LITELLM_BIN", HOME + "/venv-litellm/bin/litellm")
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
               "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "PATH": os.path.dirname(exe) + ":" + os.environ["PATH"]}
        return spawn([exe, "--config", self.write("c.yaml", conf), "--host", "127.0.0.1", "--port", self.port,
                      "--num_workers", self.args.workers, "--telemetry", "False"], PROXY_CPU, self.log, env)


class Portkey(Proxy):
    slow, settle, has = True, 1.5, {"plain"}
    target = {"provider": "openai", "api_key": "sk-x", "weight": 1}
    headers = "x-portkey-config: " + json.dumps({"strategy": {"mode": "loadbalance"}, "targets": [
        {**target, "custom_host": f"http://127.0.0.1:{p}/v1"} for p, target in zip(UP, [target] * 3)]})
    # It would listen on all addresses.
    LOOPBACK = """const s = require('net').Server.prototype, listen = s.listen;
s.listen = function (port, ...rest) {
  return typeof port === 'number' ? listen.call(this, port, '127.0.0.1', ...rest.filter(x => typeof x === 'function'))
                                  : listen.call(this, port, ...rest);
};
"""

    def start(self):
        server = os.environ.get("PORTKEY_DIR", HOME + "/portkey") + "/node_modules/@portkey-ai/gateway/build/start-server.js"
        return spawn(["node", "-r", self.write("loopback.cjs", self.LOOPBACK), server, f"--port={self.port}", "--headless"],
                     PROXY_CPU, self.log, {"NODE_ENV": "production"})


PROXIES = {
    "windward": Windward,
    "direct": Direct, "tcprelay": TcpRelay, "nginx-stream": NginxStream, "haproxy-tcp": HaproxyTcp,
    "nginx": Nginx, "nginx-buf": NginxBuf, "haproxy": Haproxy, "haproxy-nodelay": HaproxyNodelay, "envoy": Envoy,
    "pingora": Pingora,
    "hyper-mt-legacy": hyper("mt", "legacy"), "hyper-mt-raw": hyper("mt", "raw"),
    "hyper-pc-legacy": hyper("percore", "legacy"), "hyper-pc-raw": hyper("percore", "raw"),
    "hyper-pc-inline": hyper("percore", "inline"),
    "hyper-pc-inline-mi": hyper("percore", "inline", "wb-hyper-mi"),
    "hyper-pc-inline-je": hyper("percore", "inline", "wb-hyper-je"),
    "litellm": Litellm, "portkey": Portkey,
}


def make(name, port, args, uptls=False):
    """A proxy by its name; `windward=PATH` is Windward as built there, to compare two builds."""
    kind, _, path = name.partition("=")
    proxy = PROXIES[kind](name, port, args, uptls)
    if path:
        proxy.binary = path
    return proxy


def add_arguments(ap):
    ap.add_argument("--workers", type=int, default=1)
    ap.add_argument("--windward-cmd", default=f"{ROOT}/target/release/windward serve -c {{config}}",
                    help="must stay in the foreground; {config} is the file made of the template, the template's other names work too")
    ap.add_argument("--windward-config", default=HERE / "windward.yaml.tmpl", help="template of Windward's configuration")
