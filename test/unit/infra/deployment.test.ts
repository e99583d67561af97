/** compose.yaml and the dashboard against the code: port, settings, metrics. The images have a test of their own. */
import { readFileSync } from "node:fs";
import { expect, onTestFinished, test, vi } from "vitest";
import { parse } from "yaml";
import { EdgeMetrics } from "../../../edge/observability/edge-metrics.ts";
import { readConfig } from "../../../gpu-backend/config.ts";
import { backendMetricNames, namesIn } from "../../support/metric-names.ts";

const root = `${import.meta.dirname}/../../..`;
const read = (file: string) => readFileSync(`${root}/${file}`, "utf8");

const preset = readConfig({});
/** Every setting that config.ts knows, as it is written there. */
const settings = [...read("gpu-backend/config.ts").matchAll(/^ {2}([A-Z_]+):/gm)].map(([, name]) => name);

test("compose publishes the port on loopback, and sets what config.ts knows", () => {
  const { backend } = parse(read("infra/compose.yaml")).services;
  expect(backend.build).toEqual({ context: "..", dockerfile: "infra/Dockerfile", target: "cpu" });
  expect(backend.image).toBe("chameleon-backend:cpu");
  // The only folder that the image may write to.
  expect(backend.tmpfs).toEqual([`/app/${preset.dataDirectory}`]);
  expect(backend.read_only).toBe(true);
  expect(backend.ports).toEqual([`127.0.0.1:${preset.port}:${preset.port}`]);
  expect(settings).toEqual(expect.arrayContaining(Object.keys(backend.environment)));
  const given = Object.entries<string | null>(backend.environment).filter(([, value]) => value !== null);
  expect(readConfig(Object.fromEntries(given) as Record<string, string>)).toEqual(preset);
  expect(backend.environment.BACKEND_SECRETS).toBeNull();
  expect(Number.parseFloat(backend.stop_grace_period) * 1000).toBeGreaterThan(preset.drainMs);
});

test("the dashboard shows what is measured, and of the edge everything", async () => {
  const dashboard: { panels: { targets?: { expr: string }[] }[] } = JSON.parse(read("infra/dashboards/chameleon.json"));
  const shown = dashboard.panels.flatMap(({ targets = [] }) => targets).flatMap(({ expr }) => namesIn(expr));
  const measured = [...(await backendMetricNames()), ...(await edgeMetricNames())];
  expect(shown.filter((name) => !measured.includes(name))).toEqual([]);
  expect(measured.filter((name) => name.startsWith("chameleon_edge") && !shown.includes(name))).toEqual([]);
});

/** As Prometheus names what the edge reports over OTLP. */
async function edgeMetricNames(): Promise<string[]> {
  const sent: string[] = [];
  vi.stubGlobal("fetch", async (_: string, { body }: { body: string }) => {
    sent.push(body);
    return new Response();
  });
  onTestFinished(() => void vi.unstubAllGlobals());
  const edge = new EdgeMetrics({ endpoint: "http://collector", headers: {} }, () => 0);
  edge.requested({ "http.response.status_code": 200, ms: 1, "chameleon.assign_ms": 1, "chameleon.paced_ms": 1 });
  edge.batchSent([1]);
  const quiet = () => undefined;
  const observer = edge.counting({
    ...{ retried: quiet, resumed: quiet, notResumed: quiet, hedged: quiet },
    ...{ ejected: quiet, returned: quiet, failed: quiet },
  });
  observer.retried("a", 1);
  observer.resumed("a", 1);
  observer.notResumed("a", 1);
  observer.hedged("a", 1);
  observer.ejected("a");
  observer.returned("a");
  observer.failed("a", new Error("x"));
  const artifacts = edge.countingArtifacts({ switched: quiet, refused: quiet, awaited: quiet });
  artifacts.switched(null, "a");
  artifacts.refused("a", new Error("x"));
  artifacts.awaited("a");
  await edge.report();
  const { metrics: all } = JSON.parse(sent[0]).resourceMetrics[0].scopeMetrics[0];
  return all.map(({ name, unit, sum }: { name: string; unit: string; sum?: object }) => {
    const suffix = sum ? "_total" : unit === "s" ? "_seconds_bucket" : "_bucket";
    return name.replaceAll(".", "_") + suffix;
  });
}
