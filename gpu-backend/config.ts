/** The settings of the backend. No other file of gpu-backend/ reads the environment. */
import http from "node:http";
import { availableParallelism } from "node:os";
import { z } from "zod";
import { processNamePattern } from "../shared/contracts/backend-headers.ts";
import { readSecrets } from "../shared/contracts/call-signature.ts";
import { embeddedModel } from "./models/embedded.ts";
import { choice, integer, optionalInteger, optionalText, secret, text } from "./settings.ts";

const MiB = 2 ** 20;

/** Tokens of a prefill chunk and of a block of the prefix cache. Not a setting, because the number changes results. */
export const chunkTokens = 128;

const storedBytes = (mebibytes: number, what: string) =>
  integer(1, 2 ** 50, mebibytes * MiB, `Bytes of ${what} in DATA_DIR, at most; beyond, what was used longest ago goes`);

/** All settings, by environment variable. Each setting that is no secret is a flag, too. */
export const environmentSchema = z.object({
  BACKEND_HOST: text("127.0.0.1", "an address of this machine", "Address to listen on"),
  BACKEND_PORT: integer(0, 65_535, 8788, "Port to listen on; 0 lets the system choose"),
  BACKEND_NAME: optionalText(
    processNamePattern,
    "1 to 63 characters of a-z, 0-9 and -, with a letter or digit at both ends",
    "Name of this process, for edges whose address of it leads to several; in Kubernetes the pod's",
    "the host's name with a random ending",
  ),
  MODEL_DIR: text(
    embeddedModel,
    "a folder",
    "A model as Hugging Face lays it out, with the trained files in `artifacts/`",
    "the embedded model",
  ),
  WEIGHT_FORMAT: choice(
    ["fp32", "fp16", "int8", "exact"],
    "int8",
    "How weights are stored: int8 rounded, and fastest at many sequences and long prompts; exact as the file has them; fp16 only on a device, which does not serve int8",
  ),
  // Only on the CPU do results never depend on the batch.
  DEVICE: choice(
    ["cpu", "webgpu", "software"],
    "cpu",
    "What the model runs on: webgpu is a GPU that passes the self-test, else the CPU with a warning; it needs another WEIGHT_FORMAT than int8; software is an adapter without a GPU, for tests",
  ),
  REQUIRE_DEVICE: choice(
    ["none", "webgpu", "software"],
    "none",
    "In place of DEVICE: the backend ends with an error if this device is missing or fails the self-test",
  ),
  THREADS: integer(1, 256, availableParallelism(), "Threads inside an operator of the graph", "all cores"),
  MAX_SEQUENCES: integer(1, 1024, 32, "Sequences that run at the same time, KV memory permitting"),
  MAX_QUEUE: integer(
    1,
    100_000,
    512,
    "Sequences that wait for a slot; a tenant may take as many places as it leaves, at most half",
  ),
  STEP_TOKENS: integer(chunkTokens, 65_536, 256, "Prompt tokens that one step may prefill; decoding pauses for it"),
  KV_BYTES: optionalInteger(
    1,
    2 ** 40,
    "Bytes of keys and values of running and parked sequences, at most; it must hold one as long as the context, on a device two and there in exact five",
    "what the memory limit leaves, and no more than MAX_SEQUENCES can use; on a device 4 GB",
  ),
  PREFIX_CACHE_BYTES: integer(0, 2 ** 40, 256 * MiB, "Bytes of prompt beginnings for tenants to reuse; 0 keeps none"),
  MEMORY_CACHE_BYTES: integer(
    1,
    2 ** 40,
    384 * MiB,
    "Bytes of memories open for search; a single one and those of centroids may take more",
  ),
  DATA_DIR: text(
    ".cache/backend",
    "a folder",
    "What outlives a restart: tenants' own adapters and memories, encrypted; losing it costs time only, the edge has what they are made of but for what a tenant has not kept",
  ),
  TENANT_ADAPTER_BYTES: storedBytes(64, "a tenant's adapters"),
  ADAPTERS_BYTES: storedBytes(4096, "all tenants' adapters"),
  TENANT_MEMORY_BYTES: storedBytes(2048, "a tenant's memories"),
  MEMORIES_BYTES: storedBytes(4096, "all tenants' memories"),
  ARTIFACTS_URL: optionalText(
    /^(https?|file):\/\/./,
    "an http(s) or file URL",
    "Where artifacts are published, to be taken up while it runs: a bucket over HTTP (the S3 API with the two AWS keys), or a folder with the bucket's names; without, those of MODEL_DIR stay",
    "none",
  ),
  AWS_ACCESS_KEY_ID: secret("a key's id", "Id of the bucket's key"),
  AWS_SECRET_ACCESS_KEY: secret("a key's secret", "Secret of the bucket's key"),
  ARTIFACTS_POLL_MS: integer(10, 3_600_000, 2000, "Milliseconds between looks whether something else was published"),
  ARTIFACT_GRACE_MS: integer(
    0,
    2 ** 31,
    1_800_000,
    "Milliseconds that a set which is not wanted any more goes on after it was last asked for; tenants' own adapters are made again meanwhile",
  ),
  STALL_MS: integer(100, 3_600_000, 30_000, "Milliseconds without a pass after which a busy engine is restarted"),
  DRAIN_MS: integer(0, 3_600_000, 1000, "Milliseconds that running sequences may go on after SIGTERM"),
  BACKEND_SECRETS: secret(
    "a secret, or two with a comma between while one takes the place of the other",
    "What the edge signs its calls with; without, anybody may call",
  ),
});

export type BackendConfig = ReturnType<typeof readConfig>;

/** Settings in `given` take precedence over `environment`. Throws an Error that names each faulty variable. */
export function readConfig(
  environment: Record<string, string | undefined> = process.env,
  given: Record<string, string | undefined> = {},
) {
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
    name: values.BACKEND_NAME || null,
    modelDirectory: values.MODEL_DIR,
    weightFormat: values.WEIGHT_FORMAT,
    device: values.REQUIRE_DEVICE === "none" ? values.DEVICE : values.REQUIRE_DEVICE,
    isDeviceRequired: values.REQUIRE_DEVICE !== "none",
    threads: values.THREADS,
    maxSequences: values.MAX_SEQUENCES,
    maxQueue: values.MAX_QUEUE,
    stepTokens: values.STEP_TOKENS,
    /** null: as many as the memory limit leaves (memory-plan.ts). */
    kvBytes: values.KV_BYTES ?? null,
    prefixCacheBytes: values.PREFIX_CACHE_BYTES,
    memoryCacheBytes: values.MEMORY_CACHE_BYTES,
    dataDirectory: values.DATA_DIR,
    tenantAdapterBytes: values.TENANT_ADAPTER_BYTES,
    adaptersBytes: values.ADAPTERS_BYTES,
    tenantMemoryBytes: values.TENANT_MEMORY_BYTES,
    memoriesBytes: values.MEMORIES_BYTES,
    /** null: only the artifacts of the model folder are served. */
    artifactStore: values.ARTIFACTS_URL ? { url: values.ARTIFACTS_URL, credentials: credentialsOf(values) } : null,
    artifactPollMs: values.ARTIFACTS_POLL_MS,
    artifactGraceMs: values.ARTIFACT_GRACE_MS,
    stallMs: values.STALL_MS,
    drainMs: values.DRAIN_MS,
    /** If there are no secrets, calls need no signature. */
    secrets: readSecrets(values.BACKEND_SECRETS, "BACKEND_SECRETS"),
  };
}

/** Variables that children inherit. Secrets stay in the parent, because a native fault may write a child's memory to a core dump. */
const childVariables = [
  /^(PATH|HOME|USERPROFILE|APPDATA|LOCALAPPDATA|SYSTEMROOT|WINDIR|TMPDIR|TEMP|TMP|TZ|LANG|LC_\w+)$/i,
  /^(LD|DYLD|MALLOC|OMP|ORT|UV|VK|MESA|LIBGL|CUDA|NVIDIA|XDG)_\w+$/,
  /^(GLIBC_TUNABLES|DISPLAY|WAYLAND_DISPLAY)$/,
  // NODE_AUTH_TOKEN, a secret of npm, must not match.
  /^NODE_(OPTIONS|V8_COVERAGE|COMPILE_CACHE|DISABLE_COMPILE_CACHE|NO_WARNINGS|ENV|ICU_DATA)$/,
];

/**
 * Settings of glibc's allocator. A step reads every weight once, which takes a seventh less time in huge pages (GPT-2 124M in int8, 2
 * cores of a Xeon). Blocks of 1 MiB and more return to the system when freed; otherwise some 100 MB would stay with the process.
 */
const allocator = { GLIBC_TUNABLES: "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576" };

export function childEnvironment(environment: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const isInherited = ([name]: [string, unknown]) => childVariables.some((pattern) => pattern.test(name));
  return { ...allocator, ...Object.fromEntries(Object.entries(environment).filter(isInherited)) };
}

function credentialsOf(values: { AWS_ACCESS_KEY_ID?: string; AWS_SECRET_ACCESS_KEY?: string }) {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = values;
  return accessKeyId && secretAccessKey ? { accessKeyId, secretAccessKey } : null;
}

export type HubConfig = ReturnType<typeof readHubConfig>;

/** In the result, `endpoint` has no slash at its end. Throws an Error that names the faulty variable. */
export function readHubConfig(environment: Record<string, string | undefined> = process.env) {
  const endpoint = (environment.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:$/.test(URL.parse(endpoint)?.protocol ?? "")) {
    throw new Error(`bad settings: HF_ENDPOINT is ${JSON.stringify(environment.HF_ENDPOINT)}: must be an http(s) URL`);
  }
  return { endpoint, token: environment.HF_TOKEN || null };
}

/** Sends all requests of this process through the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name, if any. */
export function useProxyOfEnvironment(environment: Record<string, string | undefined> = process.env): void {
  const wanted = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"].find((name) => environment[name]);
  if (!wanted) return;
  // Node has `setGlobalProxyFromEnv` from version 24.14 on.
  if (!http.setGlobalProxyFromEnv) throw new Error(`${wanted} is set; Node 24.14 or newer is needed to go through it`);
  http.setGlobalProxyFromEnv(environment);
}
