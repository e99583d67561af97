/** The container files and the dashboard against the code: command, port, settings, health check, metrics. */
import { readFileSync } from "node:fs";
import { expect, onTestFinished, test, vi } from "vitest";
import { parse } from "yaml";
import { EdgeMetrics } from "../../../edge/observability/edge-metrics.ts";
import { readConfig } from "../../../gpu-backend/config.ts";
import { type AppParts, createApp } from "../../../gpu-backend/http/app.ts";
import { backendMetricNames, namesIn } from "../../support/metric-names.ts";

const root = `${import.meta.dirname}/../../..`;
const read = (file: string) => readFileSync(`${root}/${file}`, "utf8");

const preset = readConfig({});
const app = createApp({} as AppParts);
const getPaths = app.routes.filter(({ method }) => method === "GET").map(({ path }) => path);
/** Every setting that config.ts knows, as it is written there. */
const settings = [...read("gpu-backend/config.ts").matchAll(/^ {2}([A-Z_]+):/gm)].map(([, name]) => name);

test("the image runs what `npm run backend` runs, as nobody special, with production packages only", () => {
  const dockerfile = read("infra/Dockerfile");
  expect(dockerfile).toMatch(/^CMD \["node", "gpu-backend\/main\.ts"\]$/m);
  expect(read("infra/commands.mjs")).toMatch(/backend: \[".*", "gpu-backend\/main\.ts"\]/);
  expect(dockerfile).toMatch(/^USER node$/m);
  expect(dockerfile).toMatch(/^RUN npm ci --omit=dev --omit=optional/m);
  expect(dockerfile).toContain(`EXPOSE ${preset.port}\n`);
  const variables = /^ENV (.*)$/m
    .exec(dockerfile)![1]
    .split(" ")
    .map((pair) => pair.split("="));
  const environment = Object.fromEntries(variables.filter(([name]) => name !== "NODE_ENV"));
  expect(readConfig(environment)).toEqual({ ...preset, host: "0.0.0.0" });
  const [probe] = /^HEALTHCHECK.*?\n {2}CMD ([^\n]*)$/ms.exec(dockerfile)!.slice(1);
  expect(JSON.parse(probe)[2]).toContain(`?? ${preset.port}}/readyz`);
  expect(getPaths).toContain("/readyz");
});

test("compose publishes the port on loopback, and sets what config.ts knows", () => {
  const { backend } = parse(read("infra/compose.yaml")).services;
  expect(backend.build).toEqual({ context: "..", dockerfile: "infra/Dockerfile" });
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
  edge.batchLeft([1]);
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
