/** The overlays as Kustomize renders them: valid objects, whose ports, paths, settings and numbers are those of the code. */
import { spawnSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { regions } from "../../../edge/platform/region.ts";
import { environmentSchema, readConfig } from "../../../gpu-backend/config.ts";
import { maxSets, memorySentence, planMemory } from "../../../gpu-backend/host/memory-plan.ts";
import { startMs } from "../../../gpu-backend/host/supervisor.ts";
import { type AppParts, createApp } from "../../../gpu-backend/http/app.ts";
import { readBaseConfig } from "../../../gpu-backend/models/base.ts";
import { helpOf } from "../../../gpu-backend/settings.ts";
import { noticeMs } from "../../../infra/serve-edge.ts";
import { gpt2Config } from "../../bench/model.ts";
import { embeddedBase } from "../../support/embedded-base.ts";
import { hasKustomize, type KubernetesObject, render, validateObject } from "../../support/kubernetes.ts";
import { backendMetricNames, namesIn } from "../../support/metric-names.ts";
import { read, root } from "../../support/project.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const folder = `${root}/infra/kubernetes/overlays`;
/** The overlay that has the edge besides the backends. The other overlays have backends alone. */
const complete = "complete";
const overlays = readdirSync(folder).filter((name) => name !== complete);
/** Objects of each overlay; none where Kustomize is not installed. */
const rendered = new Map<string, KubernetesObject[]>(
  overlays.map((name) => [name, hasKustomize ? render(`${folder}/${name}`) : []]),
);
const statefulSetOf = (name: string) => rendered.get(name)!.find(({ kind }) => kind === "StatefulSet")!;

/** Seconds that closing may take after the last sequence: 2 for the fitter, 1 for the connections. */
const closingSeconds = 3;
/** Milliseconds per token at the slowest pace that does not raise an alert. */
const tokenMs =
  1000 * Number(/inter_token_latency[^>]*> ([\d.]+)$/m.exec(read("infra/alerts/chameleon.rules.yaml"))![1]);

const hasPromtool = spawnSync("promtool", ["--version"]).status === 0;
const preset = readConfig({});
const app = createApp({} as AppParts);
const getPaths = app.routes.filter(({ method }) => method === "GET").map(({ path }) => path);
const settings = helpOf(environmentSchema.shape);

interface Variable {
  name: string;
  value?: string;
  valueFrom?: { secretKeyRef?: { name: string; key: string; optional?: boolean } };
}

describe.skipIf(!hasKustomize).each(overlays)("the overlay %s", (name) => {
  const objects = rendered.get(name)!;
  const ofKind = (kind: string) => objects.filter((object) => object.kind === kind);
  const [set] = ofKind("StatefulSet");
  const pod = set?.spec.template.spec;
  const [container] = pod?.containers ?? [];
  const variables: Variable[] = container?.env ?? [];
  const config = readConfig(Object.fromEntries(variables.map(({ name, value }) => [name, value])));

  test("is valid by the schemas of Kubernetes, KEDA and the Prometheus operator", () => {
    const kinds = "NetworkPolicy PodDisruptionBudget ScaledObject Service Service ServiceMonitor StatefulSet";
    expect(objects.map(({ kind }) => kind).sort()).toEqual(kinds.split(" "));
    for (const object of objects) validateObject(object);
  });

  test("has only settings and secrets that the code reads, and secrets from Secrets alone", () => {
    // Each backend has the name of its pod.
    const nameOfPod = { fieldRef: { fieldPath: "metadata.name" } };
    expect(variables).toContainEqual({ name: "BACKEND_NAME", valueFrom: nameOfPod });
    for (const { name, value, valueFrom } of variables.filter((one) => one.name !== "BACKEND_NAME")) {
      const setting = settings.get(name);
      expect(setting, name).toBeDefined();
      // The bucket's address is in the same Secret as the bucket's keys.
      const isOfSecret = setting!.isSecret || name === "ARTIFACTS_URL";
      expect(value === undefined, name).toBe(isOfSecret);
      expect(valueFrom?.secretKeyRef?.key, name).toBe(isOfSecret ? name : undefined);
    }
    const required = variables.filter(({ valueFrom }) => valueFrom?.secretKeyRef && !valueFrom.secretKeyRef.optional);
    expect(required.map(({ name }) => name)).toEqual(["BACKEND_SECRETS"]);
    expect(container.envFrom).toBeUndefined();
  });

  test("runs the image's command on its port, without root, with a file system of which only DATA_DIR is writable", () => {
    expect([container.command, container.args]).toEqual([undefined, undefined]);
    expect(container.ports).toEqual([{ name: "http", containerPort: preset.port }]);
    expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, runAsUser: 1000 });
    expect(container.securityContext.readOnlyRootFilesystem).toBe(true);
    expect(container.volumeMounts).toEqual([{ name: "data", mountPath: `/app/${preset.dataDirectory}` }]);
  });

  test("is started, ready and live by the paths that say so, with time for the slowest start", () => {
    const { startupProbe, readinessProbe, livenessProbe } = container;
    const paths = ["/readyz", "/readyz", "/healthz"];
    expect(getPaths).toEqual(expect.arrayContaining(paths));
    expect([startupProbe, readinessProbe, livenessProbe].map(({ httpGet }) => httpGet)).toEqual(
      paths.map((path) => ({ path, port: "http" })),
    );
    expect(startupProbe.failureThreshold * startupProbe.periodSeconds * 1000).toBeGreaterThan(startMs);
  });

  test("drains for as long as the longest generation takes, and is killed only after that", () => {
    expect(config.drainMs).toBeGreaterThanOrEqual(gpt2Config.contextTokens * tokenMs);
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThanOrEqual(config.drainMs / 1000 + closingSeconds);
  });

  test("has memory for the embedded base: requested for one set of artifacts, at most for several", async () => {
    const { model } = await readBaseConfig(embeddedBase);
    const { requests, limits } = container.resources;
    const expectEnough = (memory: string, sets: number) => {
      const limitBytes = Number(/^(\d+)Gi$/.exec(memory)?.[1]) * 2 ** 30;
      const plan = planMemory({
        ...{ ...config, model, isInBlocks: true, sets, limitBytes },
        isOnDevice: config.device !== "cpu",
      });
      expect(plan.plannedBytes, memorySentence(plan)).toBeLessThanOrEqual(limitBytes);
    };
    expectEnough(requests.memory, 1);
    expectEnough(limits.memory, maxSets);
    expect(String(config.threads)).toBe(requests.cpu);
  });

  test("has its image and its device", () => {
    const isGpu = name === "gpu";
    expect(container.image).toBe(`chameleon-backend:${isGpu ? "gpu" : "cpu"}`);
    expect(config.device).toBe(isGpu ? "webgpu" : "cpu");
    expect(config.kvBytes !== null).toBe(isGpu);
    expect(container.resources.limits["nvidia.com/gpu"]).toBe(isGpu ? "1" : undefined);
    expect(pod.runtimeClassName).toBe(isGpu ? "nvidia" : undefined);
    const tolerated = (pod.tolerations ?? []).map(({ key }: { key: string }) => key);
    expect(tolerated).toEqual(isGpu ? ["nvidia.com/gpu"] : []);
  });

  test("gives the group one address, and each pod its own, also while it drains", () => {
    const [group, pods] = ofKind("Service");
    for (const service of [group, pods]) {
      expect(set.spec.template.metadata.labels).toMatchObject(service.spec.selector);
      expect(service.spec.ports).toEqual([{ name: "http", port: preset.port, targetPort: "http" }]);
    }
    expect(group.spec.clusterIP).toBeUndefined();
    expect(pods.spec).toMatchObject({ clusterIP: "None", publishNotReadyAddresses: true });
    expect(set.spec.serviceName).toBe(pods.metadata.name);
  });

  test("spreads, budgets, guards and scrapes these pods, each pod once", () => {
    const labels: object = set.spec.template.metadata.labels;
    expect(labels).toMatchObject(set.spec.selector.matchLabels);
    const constraints: { topologyKey: string; labelSelector: { matchLabels: object } }[] =
      pod.topologySpreadConstraints;
    const topologies = constraints.map(({ topologyKey }) => topologyKey);
    expect(topologies).toEqual(["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
    const [budget] = ofKind("PodDisruptionBudget");
    const [policy] = ofKind("NetworkPolicy");
    const selectors = [budget.spec.selector, policy.spec.podSelector, ...constraints.map((one) => one.labelSelector)];
    for (const { matchLabels } of selectors) expect(labels).toMatchObject(matchLabels);
    for (const { from, ports } of policy.spec.ingress) {
      expect(from).not.toHaveLength(0);
      expect(ports).toEqual([{ protocol: "TCP", port: "http" }]);
    }
    const { selector, endpoints } = ofKind("ServiceMonitor")[0].spec;
    const wanted = Object.entries(selector.matchLabels);
    const services = ofKind("Service").map(({ metadata }) => metadata);
    const scraped = services.filter(({ labels }) => wanted.every(([key, value]) => labels[key] === value));
    expect(scraped.map(({ name }) => name)).toEqual([set.spec.serviceName]);
    expect(endpoints[0].port).toBe("http");
    expect(getPaths).toContain(endpoints[0].path);
  });

  test("scales on the slots and the queue of its own namespace, and keeps its pods if Prometheus does not answer", async () => {
    const [scaled] = ofKind("ScaledObject");
    const { scaleTargetRef, triggers, fallback, minReplicaCount, maxReplicaCount } = scaled.spec;
    expect(scaleTargetRef).toEqual({ kind: set.kind, name: set.metadata.name });
    expect(set.spec.replicas).toBeUndefined();
    const measured = await backendMetricNames();
    for (const { metadata } of triggers) {
      const names = namesIn(metadata.query);
      expect(names.filter((name) => !measured.includes(name))).toEqual([]);
      const scopes = metadata.query.match(/(?<=namespace=")[^"]*(?=")/g);
      expect(scopes).toEqual(names.map(() => set.metadata.namespace));
    }
    const [slots, queueTime] = triggers;
    expect(namesIn(slots.metadata.query)).toEqual(["vllm:num_requests_waiting", "vllm:num_requests_running"]);
    expect(Number(slots.metadata.threshold)).toBe(0.75 * config.maxSequences);
    expect(namesIn(queueTime.metadata.query)).toContain("vllm:request_queue_time_seconds_bucket");
    // KEDA uses its fallback only if every trigger is an average.
    expect([slots, queueTime].map(({ metricType }) => metricType)).toEqual(["AverageValue", "AverageValue"]);
    expect(minReplicaCount).toBeGreaterThanOrEqual(2);
    expect(fallback.replicas).toBeGreaterThanOrEqual(minReplicaCount);
    expect(fallback.replicas).toBeLessThanOrEqual(maxReplicaCount);
  });
});

/** Series of each of two pods: running sequences, waiting sequences, and how many waited for at most 1 s and at most 2.5 s. */
const fleets: [string, Record<string, string>, [slots: number | null, queueTime: number]][] = [
  ["has nothing to do", { running: "0x20", waiting: "0x20", le1: "5x20", le2: "5x20" }, [0, 0]],
  [
    "is busy, and sequences wait for 1 to 2.5 s",
    { running: "32x20", waiting: "4x20", le1: "0x20", le2: "0+60x20" },
    // (32 + 4) x 2 pods; 2 pods x (1 s + 0.95 of the bucket's 1.5 s).
    [72, 2 * (1 + 0.95 * 1.5)],
  ],
  ["is not scraped", {}, [null, 0]],
];

test.skipIf(!hasKustomize || !hasPromtool).each(fleets)(
  "the queries that scale have the right value where a fleet %s",
  (_, series, expected) => {
    const scaled = rendered.get("cpu")!.find(({ kind }) => kind === "ScaledObject")!;
    const names = { running: "vllm:num_requests_running", waiting: "vllm:num_requests_waiting" };
    const bucket = "vllm:request_queue_time_seconds_bucket";
    const labels = (pod: string, le = "") => `{namespace="chameleon", instance="${pod}"${le && `, le="${le}"`}}`;
    const inputs = ["a", "b"].flatMap((pod) => [
      [names.running + labels(pod), series.running],
      [names.waiting + labels(pod), series.waiting],
      [bucket + labels(pod, "1"), series.le1],
      [bucket + labels(pod, "2.5"), series.le2],
      [bucket + labels(pod, "+Inf"), series.le2],
      // Sequences of another fleet, which must not count.
      [names.running + labels(pod).replace("chameleon", "other"), "900x20"],
    ]);
    const tests = [
      {
        interval: "1m",
        input_series: inputs.filter(([, values]) => values).map(([series, values]) => ({ series, values })),
        promql_expr_test: scaled.spec.triggers.map(({ metadata }: KubernetesObject, i: number) => ({
          expr: metadata.query,
          eval_time: "10m",
          exp_samples: expected[i] === null ? [] : [{ labels: "{}", value: expected[i] }],
        })),
      },
    ];
    const directory = temporaryFolder();
    writeFileSync(`${directory}/tests.yaml`, stringify({ tests }));
    const { status, stdout } = spawnSync("promtool", ["test", "rules", `${directory}/tests.yaml`]);
    expect(status, String(stdout)).toBe(0);
    // Without `false` KEDA would take an answer without a value for 0.
    expect(scaled.spec.triggers[0].metadata.ignoreNullValues).toBe("false");
  },
);

describe.skipIf(!hasKustomize)("the overlay complete", () => {
  const objects = hasKustomize ? render(`${folder}/${complete}`) : [];
  const ofEdge = (kind: string) =>
    objects.find((object) => object.kind === kind && object.metadata.name === "chameleon-edge")!;
  const set = ofEdge("StatefulSet");
  const pod = set?.spec.template;
  const [container] = pod?.spec.containers ?? [];
  const variable = (name: string) => container.env.find((one: Variable) => one.name === name);

  test("is valid, and has the backends of the overlay cpu, in a namespace that it makes", () => {
    for (const object of objects) validateObject(object);
    const backends = objects.filter(({ metadata }) => metadata.name.startsWith("chameleon-backend"));
    expect(backends).toEqual(rendered.get("cpu"));
    const [namespace] = objects.filter(({ kind }) => kind === "Namespace");
    const others = objects.filter(({ kind }) => kind !== "Namespace");
    expect(new Set(others.map(({ metadata }) => metadata.namespace))).toEqual(new Set([namespace.metadata.name]));
  });

  test("calls the backends' pods by their names and port, with their secret, as both network policies allow", () => {
    const pods = objects.find(({ spec }) => spec?.clusterIP === "None")!;
    expect(variable("BACKEND_URLS").value).toBe(`http://{name}.${pods.metadata.name}:${pods.spec.ports[0].port}`);
    const { env } = statefulSetOf("cpu").spec.template.spec.containers[0];
    expect(env).toContainEqual(variable("BACKEND_SECRETS"));
    const policy = rendered.get("cpu")!.find(({ kind }) => kind === "NetworkPolicy")!;
    expect(pod.metadata.labels).toMatchObject(policy.spec.ingress[0].from[0].podSelector.matchLabels);
    const [, toBackends] = ofEdge("NetworkPolicy").spec.egress;
    expect(statefulSetOf("cpu").spec.template.metadata.labels).toMatchObject(toBackends.to[0].podSelector.matchLabels);
    expect(toBackends.ports).toEqual([{ protocol: "TCP", port: preset.port }]);
  });

  test("is one pod with persistent state, probed by the edge's paths, with time to drain", () => {
    expect(set.spec.replicas).toBe(1);
    expect(set.spec.volumeClaimTemplates[0].metadata.name).toBe("state");
    expect(container.volumeMounts).toContainEqual({ name: "state", mountPath: "/state" });
    expect(container.securityContext.readOnlyRootFilesystem).toBe(true);
    const probes = [container.startupProbe, container.readinessProbe, container.livenessProbe];
    expect(probes.map(({ httpGet }) => httpGet)).toEqual(
      ["/healthz", "/readyz", "/healthz"].map((path) => ({ path, port: "http" })),
    );
    const seconds = pod.spec.terminationGracePeriodSeconds;
    expect(seconds * 1000).toBeGreaterThanOrEqual(Number(variable("DRAIN_MS").value) + noticeMs + 5000);
    expect(container.ports).toEqual([{ name: "http", containerPort: 8787 }]);
    const labels: object = pod.metadata.labels;
    expect(labels).toMatchObject(ofEdge("Service").spec.selector);
    expect(labels).toMatchObject(ofEdge("PodDisruptionBudget").spec.selector.matchLabels);
    expect(labels).toMatchObject(ofEdge("NetworkPolicy").spec.podSelector.matchLabels);
  });
});

describe.skipIf(!hasKustomize)("overlays", () => {
  test("have namespaces of their own, so that several fit into a cluster", () => {
    const namespaces = [...rendered.values()].map((all) => new Set(all.map(({ metadata }) => metadata.namespace)));
    expect(namespaces.map(({ size }) => size)).toEqual(namespaces.map(() => 1));
    expect(new Set(namespaces.flatMap((names) => [...names])).size).toBe(namespaces.length);
  });

  test("of a region name one of the edge's regions, and run where its nodes are", () => {
    const { metadata, spec } = statefulSetOf("region").spec.template;
    expect(regions).toContain(metadata.labels.region);
    const [term] = spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms;
    expect(term.matchExpressions[0].key).toBe("topology.kubernetes.io/region");
  });

  test.each<[string, (set: KubernetesObject) => void, RegExp]>([
    ["of a wrong type", (set) => (set.spec.serviceName = 1), /serviceName must be string/],
    ["that is missing", (set) => delete set.spec.selector, /must have required property selector/],
    ["that does not exist", (set) => (set.spec.template.spec.containers[0].readinesProbe = {}), /unknown: .*Probe$/],
  ])("are refused for a field %s", (_, spoil, message) => {
    const set = structuredClone(statefulSetOf("cpu"));
    spoil(set);
    expect(() => validateObject(set)).toThrow(message);
  });
});
