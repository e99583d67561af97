/** The container and cluster files against the code that they run: command, port, settings, probes, metrics. */
import { readdirSync, readFileSync } from "node:fs";
import { expect, onTestFinished, test, vi } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { EdgeMetrics } from "../../../edge/observability/edge-metrics.ts";
import { readConfig } from "../../../gpu-backend/config.ts";
import { memorySentence, planMemory } from "../../../gpu-backend/engine/memory-plan.ts";
import { type AppParts, createApp } from "../../../gpu-backend/http/app.ts";
import { createMetrics } from "../../../gpu-backend/http/metrics.ts";
import { readModelConfig } from "../../../gpu-backend/runtime/model-folder.ts";
import { gpt2Config } from "../../bench/model.ts";
import { noEngine } from "../../support/metrics-view.ts";

const root = `${import.meta.dirname}/../../..`;
const read = (file: string) => readFileSync(`${root}/${file}`, "utf8");

const preset = readConfig({});
const metrics = createMetrics({ ...noEngine, manifests: () => ({ all: ["a"], first: "a" }) });
const app = createApp({ metrics } as AppParts);
const getPaths = app.routes.filter(({ method }) => method === "GET").map(({ path }) => path);
/** Every setting that config.ts knows, as it is written there. */
const settings = [...read("gpu-backend/config.ts").matchAll(/^ {2}([A-Z_]+):/gm)].map(([, name]) => name);

interface Probe {
  httpGet: { path: string; port: string };
}
interface Container {
  command?: string[];
  args?: string[];
  ports: { name: string; containerPort: number }[];
  env: { name: string; value: string }[];
  startupProbe: Probe;
  readinessProbe: Probe;
  livenessProbe: Probe;
  resources: { requests: { memory: string }; limits: { memory: string } };
}
const documents = readdirSync(`${root}/infra/kubernetes`).flatMap((file) =>
  parseAllDocuments(read(`infra/kubernetes/${file}`)).map((document) => {
    expect(document.errors).toEqual([]);
    return document.toJS();
  }),
);
const ofKind = (kind: string) => documents.find((document) => document.kind === kind);
const deployment = ofKind("Deployment");
const pod = deployment.spec.template.spec;
const container: Container = pod.containers[0];

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

test("the pod has the port, settings, probes and grace that the backend wants", () => {
  expect([container.command, container.args]).toEqual([undefined, undefined]);
  expect(container.ports).toEqual([{ name: "http", containerPort: preset.port }]);
  expect(settings).toEqual(expect.arrayContaining(container.env.map(({ name }) => name)));
  const config = readConfig(Object.fromEntries(container.env.map(({ name, value }) => [name, value])));
  expect(pod.terminationGracePeriodSeconds * 1000).toBeGreaterThan(config.drainMs);
  for (const { httpGet } of [container.startupProbe, container.readinessProbe, container.livenessProbe]) {
    expect(httpGet.port).toBe("http");
    expect(getPaths).toContain(httpGet.path);
  }
  expect(container.livenessProbe.httpGet.path).toBe("/healthz");
  const secret = { secretKeyRef: { name: "chameleon-backend", key: "BACKEND_SECRETS" } };
  expect(container.env).toContainEqual({ name: "BACKEND_SECRETS", valueFrom: secret });
  expect(pod.securityContext.runAsNonRoot).toBe(true);
  expect(deployment.spec.replicas).toBeUndefined();
});

test.each([
  ["the image's model", async () => readModelConfig(preset.modelDirectory)],
  ["GPT-2 124M", async () => gpt2Config],
])("memory of the pod suffices for %s: requested for one set of artifacts, at most for several", async (_, model) => {
  const config = readConfig(Object.fromEntries(container.env.map(({ name, value }) => [name, value])));
  const { requests, limits } = container.resources;
  for (const [memory, sets] of [
    [requests.memory, 1],
    [limits.memory, config.artifactSets],
  ] as const) {
    const limitBytes = Number(/^(\d+)Gi$/.exec(memory)?.[1]) * 2 ** 30;
    const plan = planMemory({ ...config, model: await model(), sets, limitBytes });
    console.log(`${memory}: ${memorySentence(plan)}`);
    expect(plan.plannedBytes).toBeLessThanOrEqual(limitBytes);
  }
});

test("service, scrape and scaling refer to what exists", async () => {
  const { labels, annotations } = deployment.spec.template.metadata;
  expect(deployment.spec.selector.matchLabels).toEqual(labels);
  const service = ofKind("Service");
  expect(service.spec.selector).toEqual(labels);
  expect(service.spec.ports).toEqual([{ name: "http", port: preset.port, targetPort: "http" }]);
  expect(annotations["prometheus.io/port"]).toBe(String(preset.port));
  expect(getPaths).toContain(annotations["prometheus.io/path"]);

  const { scaleTargetRef, triggers } = ofKind("ScaledObject").spec;
  expect(scaleTargetRef.name).toBe(deployment.metadata.name);
  const exported = await metrics.text();
  const names: string[] = triggers[0].metadata.query.match(/(chameleon_|vllm:)\w+/g);
  expect(names).toContain("vllm:num_requests_waiting");
  for (const name of names) expect(exported).toContain(`\n${name} `);
  expect(Number(triggers[0].metadata.threshold)).toBe(0.75 * preset.maxSequences);
});

test("the dashboard shows what is measured, and of the edge everything", async () => {
  const dashboard: { panels: { targets?: { expr: string }[] }[] } = JSON.parse(read("infra/dashboards/chameleon.json"));
  const shown = dashboard.panels
    .flatMap(({ targets = [] }) => targets)
    .flatMap(({ expr }) => expr.match(/(chameleon_|vllm:)\w+/g) ?? [])
    .map((name) => name.replace(/_bucket$/, ""));
  const backend = [...(await metrics.text()).matchAll(/^# TYPE ([\w:]+)/gm)].map(([, name]) => name);
  const measured = [...backend, ...(await edgeMetricNames())];
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
    const suffix = sum ? "_total" : unit === "s" ? "_seconds" : "";
    return name.replaceAll(".", "_") + suffix;
  });
}
