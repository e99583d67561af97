/** The backend's settings, from the environment: the only file of it that reads the environment. */
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { z } from "zod";

const integer = (minimum: number, maximum: number, preset: number) =>
  z
    .string()
    .regex(/^\d+$/, "must be a whole number")
    .transform(Number)
    .pipe(z.int().min(minimum).max(maximum))
    .default(preset);

const MiB = 2 ** 20;

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
  /** Threads inside an operator of the graph. */
  THREADS: integer(1, 256, availableParallelism()),
  /** Slots: sequences that run at the same time. KV memory grows with it. */
  MAX_SEQUENCES: integer(1, 1024, 32),
  /** Sequences that wait for a slot; one more is refused. */
  MAX_QUEUE: integer(1, 100_000, 256),
  /** Prompt tokens, padding counted, that one step may prefill: throughput against the pause it costs the others. */
  STEP_TOKENS: integer(64, 65_536, 256),
  ADAPTER_CACHE_BYTES: integer(0, 2 ** 40, 64 * MiB),
  /** How long running sequences may go on after SIGTERM. */
  DRAIN_MS: integer(0, 3_600_000, 1000),
});

export interface BackendConfig {
  host: string;
  port: number;
  modelDirectory: string;
  weightFormat: "fp32" | "int8" | "block8" | "block4";
  threads: number;
  maxSequences: number;
  maxQueue: number;
  stepTokens: number;
  adapterCacheBytes: number;
  drainMs: number;
}

/** Reads and checks the settings. Throws an Error that names each variable at fault. */
export function readConfig(environment: Record<string, string | undefined> = process.env): BackendConfig {
  const parsed = environmentSchema.safeParse(environment);
  if (!parsed.success) {
    const issues = parsed.error.issues.map(({ path, message }) => {
      const name = path.join(".");
      return `${name} is ${JSON.stringify(environment[name])}: ${message}`;
    });
    throw new Error(`bad settings: ${issues.join("; ")}`);
  }
  const values = parsed.data;
  return {
    host: values.BACKEND_HOST,
    port: values.BACKEND_PORT,
    modelDirectory: values.MODEL_DIR,
    weightFormat: values.WEIGHT_FORMAT,
    threads: values.THREADS,
    maxSequences: values.MAX_SEQUENCES,
    maxQueue: values.MAX_QUEUE,
    stepTokens: values.STEP_TOKENS,
    adapterCacheBytes: values.ADAPTER_CACHE_BYTES,
    drainMs: values.DRAIN_MS,
  };
}
