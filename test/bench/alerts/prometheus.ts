/**
 * Prometheus and its Alertmanager over local backends, with time made faster: a minute of the rules is a second here.
 * Not here: what provokes an alert (causes.ts).
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const rulesFile = path.join(import.meta.dirname, "../../../infra/alerts/chameleon.rules.yaml");
const job = "chameleon-backend";

export interface Watch {
  /** Scrapes `urls` as the backends of `namespace`, in the place of those it had. */
  scrape(namespace: string, urls: readonly string[]): void;
  /** Names of what fires in a namespace, as the Alertmanager has it. */
  firing(namespace: string): Promise<string[]>;
  stop(): Promise<void>;
}

/** The programs that are missing here: Debian has each in the package of its name. */
export function missingPrograms(): string[] {
  return ["prometheus", "prometheus-alertmanager"].filter((name) => spawnSync(name, ["--version"]).status !== 0);
}

/** Rules whose durations are a sixtieth: "[5m]" is "[5s]", "for: 2m" is "for: 2s". */
export function hurried(rules: string): string {
  return rules
    .replace(/\[(\d+)h\]/g, (_, hours) => `[${Number(hours) * 60}s]`)
    .replace(/\[(\d+)m\]/g, "[$1s]")
    .replace(/(for: \d+)m$/gm, "$1s");
}

export async function startWatch(): Promise<Watch> {
  const folder = mkdtempSync(path.join(tmpdir(), "chameleon-alerts-"));
  const [prometheusPort, alertmanagerPort] = [await freePort(), await freePort()];
  const targets = new Map<string, readonly string[]>();
  const writeTargets = () => {
    const groups = [...targets].map(([namespace, urls]) => ({
      targets: urls.map((url) => new URL(url).host),
      labels: { namespace },
    }));
    writeFileSync(`${folder}/targets.json`, JSON.stringify(groups));
  };
  writeTargets();
  writeFileSync(`${folder}/rules.yaml`, hurried(readFileSync(rulesFile, "utf8")));
  writeFileSync(
    `${folder}/prometheus.yaml`,
    JSON.stringify({
      global: { scrape_interval: "250ms", scrape_timeout: "250ms", evaluation_interval: "250ms" },
      rule_files: ["rules.yaml"],
      alerting: { alertmanagers: [{ static_configs: [{ targets: [`127.0.0.1:${alertmanagerPort}`] }] }] },
      scrape_configs: [{ job_name: job, file_sd_configs: [{ files: ["targets.json"], refresh_interval: "1s" }] }],
    }),
  );
  writeFileSync(
    `${folder}/alertmanager.yaml`,
    JSON.stringify({ route: { receiver: "none" }, receivers: [{ name: "none" }] }),
  );
  let log = "";
  const children = [
    run("prometheus-alertmanager", [
      ...["--config.file=alertmanager.yaml", "--storage.path=alerts", "--cluster.listen-address="],
      `--web.listen-address=127.0.0.1:${alertmanagerPort}`,
    ]),
    run("prometheus", [
      ...["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--rules.alert.resend-delay=250ms"],
      `--web.listen-address=127.0.0.1:${prometheusPort}`,
    ]),
  ];

  function run(program: string, args: string[]): ChildProcess {
    const child = spawn(program, args, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });
    child.stderr.on("data", (text) => {
      log = (log + text).slice(-4000);
    });
    return child;
  }
  async function stop(): Promise<void> {
    await Promise.all(
      children.map(async (child) => {
        if (child.exitCode !== null) return;
        const exited = once(child, "exit");
        child.kill("SIGTERM");
        await exited;
      }),
    );
    rmSync(folder, { recursive: true });
  }

  try {
    for (const port of [prometheusPort, alertmanagerPort]) await untilReady(`http://127.0.0.1:${port}/-/ready`);
  } catch (error) {
    await stop();
    throw new Error(`Prometheus does not start: ${log}`, { cause: error });
  }
  return {
    scrape(namespace, urls) {
      targets.set(namespace, urls);
      writeTargets();
    },
    async firing(namespace) {
      const filter = encodeURIComponent(`namespace="${namespace}"`);
      const response = await fetch(`http://127.0.0.1:${alertmanagerPort}/api/v2/alerts?active=true&filter=${filter}`);
      const alerts = (await response.json()) as { labels: { alertname: string } }[];
      return [...new Set(alerts.map(({ labels }) => labels.alertname))];
    },
    stop,
  };
}

/** Throws an Error after 30 s. */
async function untilReady(url: string): Promise<void> {
  for (let attempt = 0; attempt < 120; attempt++) {
    const isReady = await fetch(url).then(
      ({ ok }) => ok,
      () => false,
    );
    if (isReady) return;
    await pause(250);
  }
  throw new Error(`${url} is not ready`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as { port: number };
  await once(server.close(), "close");
  return port;
}
