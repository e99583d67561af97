/** The settings of the backend and of its import of models: the only file here that reads the environment. */
import http from "node:http";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { readSecrets } from "../shared/contracts/call-signature.ts";
import { type OtlpTarget, readOtlpTarget } from "../shared/observability/otlp.ts";

const integer = (minimum: number, maximum: number, preset: number) =>
  z
    .string()
    .regex(/^\d+$/, "must be a whole number")
    .transform(Number)
    .pipe(z.int().min(minimum).max(maximum))
    .default(preset);

export const deviceNames = ["auto", "cpu", "webgpu", "cuda"] as const;

const MiB = 2 ** 20;

/**
 * Prompt tokens a sequence prefills per step, and of a block of the prefix cache; part of how a prompt is computed, so no
 * setting. Half as many would cost a lone prompt a tenth more time, twice as many the others a longer pause.
 */
export const chunkTokens = 128;

const environmentSchema = z.object({
  BACKEND_HOST: z.string().min(1).default("127.0.0.1"),
  /** 0 lets the system choose. */
  BACKEND_PORT: integer(0, 65_535, 8788),
  /** A folder as Hugging Face lays it out, with the trained files in `artifacts/`. */
  MODEL_DIR: z
    .string()
    .min(1)
    .default(fileURLToPath(new URL("./models/chameleon-mini", import.meta.url))),
  /** How weights are stored in memory. */
  WEIGHT_FORMAT: z.enum(["fp32", "int8", "block8", "block4"]).default("fp32"),
  /** What the trunk runs on: runtime/device.ts. The CPU unless asked, since only there a result never depends on mates. */
  DEVICE: z.enum(deviceNames).default("cpu"),
  /** Threads inside an operator of the graph. */
  THREADS: integer(1, 256, availableParallelism()),
  /** Slots: sequences that run at the same time, KV memory permitting. */
  MAX_SEQUENCES: integer(1, 1024, 32),
  /** Sequences that wait for a slot. A tenant may take as many places as it leaves free, at most half. */
  MAX_QUEUE: integer(1, 100_000, 512),
  /** Prompt tokens that one step may prefill: throughput against the pause it costs the others. */
  STEP_TOKENS: integer(chunkTokens, 65_536, 256),
  /** Bound on keys and values of running sequences; it holds one as long as the context at least. */
  KV_BYTES: integer(1, 2 ** 40, 2048 * MiB),
  /** Keys and values of prompt beginnings, kept to be reused by the same tenant; 0 keeps none. */
  PREFIX_CACHE_BYTES: integer(0, 2 ** 40, 256 * MiB),
  ADAPTER_CACHE_BYTES: integer(0, 2 ** 40, 64 * MiB),
  /**
   * Adapters with directions of their own (of hyperNetwork.kind "full", or made of examples) that run at the same time;
   * a step costs a little more with each. 0: adapters are made of examples without directions.
   */
  ADAPTER_SLOTS: integer(0, 256, 8),
  /** What outlives a restart: tenants' own adapters. Losing it costs time only, the edge has them too. */
  DATA_DIR: z.string().min(1).default(".cache/backend"),
  /** Bound on a tenant's adapters there; beyond it goes what was used longest ago. */
  TENANT_ADAPTER_BYTES: integer(1, 2 ** 40, 64 * MiB),
  /**
   * Where artifacts are published, to be taken up while it runs: the bucket over HTTP (the S3 API with the two keys below),
   * or a folder with the bucket's names (file:). Not set: `artifacts/` of MODEL_DIR, as long as it runs.
   */
  ARTIFACTS_URL: z
    .string()
    .regex(/^((https?|file):\/\/.|$)/, "must be an http(s) or file URL")
    .optional(),
  AWS_ACCESS_KEY_ID: z.string().optional(),
  AWS_SECRET_ACCESS_KEY: z.string().optional(),
  /** How often it looks whether something else was published. */
  ARTIFACTS_POLL_MS: integer(10, 3_600_000, 2000),
  /**
   * Sets of artifacts side by side while one takes the place of another. Each has a session, and memory, of its own: weights,
   * KV_BYTES and caches count once for each.
   */
  ARTIFACT_SETS: integer(2, 8, 2),
  /** How long a set that is not wanted any more goes on after it was last asked for. */
  ARTIFACT_GRACE_MS: integer(0, 2 ** 31, 300_000),
  /** How long running sequences may go on after SIGTERM. */
  DRAIN_MS: integer(0, 3_600_000, 1000),
  /** What the edge signs its calls with; two, separated by a comma, while one takes the place of the other. None: anybody may call. */
  BACKEND_SECRETS: z.string().optional(),
  /** A collector for traces, as OpenTelemetry names it: `http://collector:4318`. None where it is not set. */
  OTEL_EXPORTER_OTLP_ENDPOINT: z.string().optional(),
  /** What the collector wants: `name=value,name=value`. */
  OTEL_EXPORTER_OTLP_HEADERS: z.string().optional(),
});

export interface BackendConfig {
  host: string;
  port: number;
  modelDirectory: string;
  weightFormat: "fp32" | "int8" | "block8" | "block4";
  device: (typeof deviceNames)[number];
  threads: number;
  maxSequences: number;
  maxQueue: number;
  stepTokens: number;
  kvBytes: number;
  prefixCacheBytes: number;
  adapterCacheBytes: number;
  adapterSlots: number;
  dataDirectory: string;
  tenantAdapterBytes: number;
  /** null: what is published is of no concern. */
  artifactStore: { url: string; credentials: { accessKeyId: string; secretAccessKey: string } | null } | null;
  artifactPollMs: number;
  artifactSets: number;
  artifactGraceMs: number;
  drainMs: number;
  /** A call must be signed with one of them; none: calls need no signature. */
  secrets: string[];
  otlp: OtlpTarget | null;
}

/** Reads and checks the settings; `given` wins over the environment. Throws an Error that names each variable at fault. */
export function readConfig(
  environment: Record<string, string | undefined> = process.env,
  given: Record<string, string | undefined> = {},
): BackendConfig {
  const variables = { ...environment, ...given };
  const parsed = environmentSchema.safeParse(variables);
  if (!parsed.success) {
    const issues = parsed.error.issues.map(({ path, message }) => {
      const name = path.join(".");
      return `${name} is ${JSON.stringify(variables[name])}: ${message}`;
    });
    throw new Error(`bad settings: ${issues.join("; ")}`);
  }
  const values = parsed.data;
  return {
    host: values.BACKEND_HOST,
    port: values.BACKEND_PORT,
    modelDirectory: values.MODEL_DIR,
    weightFormat: values.WEIGHT_FORMAT,
    device: values.DEVICE,
    threads: values.THREADS,
    maxSequences: values.MAX_SEQUENCES,
    maxQueue: values.MAX_QUEUE,
    stepTokens: values.STEP_TOKENS,
    kvBytes: values.KV_BYTES,
    prefixCacheBytes: values.PREFIX_CACHE_BYTES,
    adapterCacheBytes: values.ADAPTER_CACHE_BYTES,
    adapterSlots: values.ADAPTER_SLOTS,
    dataDirectory: values.DATA_DIR,
    tenantAdapterBytes: values.TENANT_ADAPTER_BYTES,
    artifactStore: values.ARTIFACTS_URL ? { url: values.ARTIFACTS_URL, credentials: credentialsOf(values) } : null,
    artifactPollMs: values.ARTIFACTS_POLL_MS,
    artifactSets: values.ARTIFACT_SETS,
    artifactGraceMs: values.ARTIFACT_GRACE_MS,
    drainMs: values.DRAIN_MS,
    secrets: readSecrets(values.BACKEND_SECRETS, "BACKEND_SECRETS"),
    otlp: readOtlpTarget(values.OTEL_EXPORTER_OTLP_ENDPOINT, values.OTEL_EXPORTER_OTLP_HEADERS),
  };
}

function credentialsOf(values: { AWS_ACCESS_KEY_ID?: string; AWS_SECRET_ACCESS_KEY?: string }) {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = values;
  return accessKeyId && secretAccessKey ? { accessKeyId, secretAccessKey } : null;
}

export interface HubConfig {
  /** Origin and path of the hub, without a slash at its end. */
  endpoint: string;
  token: string | null;
}

/** Where models are imported from. Throws an Error that names the variable at fault. */
export function readHubConfig(environment: Record<string, string | undefined> = process.env): HubConfig {
  const endpoint = (environment.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:$/.test(URL.parse(endpoint)?.protocol ?? "")) {
    throw new Error(`bad settings: HF_ENDPOINT is ${JSON.stringify(environment.HF_ENDPOINT)}: must be an http(s) URL`);
  }
  return { endpoint, token: environment.HF_TOKEN || null };
}

/** Lets every request of this process go through the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name, if any. */
export function useProxyOfEnvironment(environment: Record<string, string | undefined> = process.env): void {
  const wanted = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"].find((name) => environment[name]);
  if (!wanted) return;
  // Older Node has no such function; `npm` picks one that has where it can.
  if (!http.setGlobalProxyFromEnv) throw new Error(`${wanted} is set; Node 24.14 or newer is needed to go through it`);
  http.setGlobalProxyFromEnv(environment);
}
