/**
 * node-llama-cpp as a contestant: its prebuilt binary, one context, a sequence for each row. All rows are evaluated together. Settings are
 * the defaults (KV in fp16) except for threads and greedy sampling.
 */
import { basename } from "node:path";
import { openPartFiles } from "../../../gpu-backend/models/gguf/part-files.ts";
import { BatchMeter, type Contestant } from "../contestant.ts";
import { cached } from "../model.ts";
import { importInstalled } from "../peer-package.ts";

/** The package is installed on demand, so its own types are not at hand. */
interface NodeLlama {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<Model> }>;
}
interface Model {
  createContext(options: object): Promise<Context>;
}
interface Context {
  getSequence(): { evaluate(tokens: number[], options: object): AsyncGenerator<number, void> };
  dispose(): Promise<void>;
}

/** node-llama-cpp reads no file in parts, so parts are joined. */
async function joined(path: string): Promise<string> {
  const file = openPartFiles(path);
  try {
    if (file.parts.length === 1) return path;
    return await cached(`llama/${file.bytes}-${basename(path)}`, () => file.read(0, file.bytes));
  } finally {
    file.close();
  }
}

export async function openLlama(threads: number, gguf: string, gpu: "vulkan" | false): Promise<Contestant> {
  const modelPath = await joined(gguf);
  const { getLlama } = await importInstalled<NodeLlama>(import.meta.dirname, "node-llama-cpp");
  const llama = await getLlama({
    gpu,
    build: "never",
    skipDownload: true,
    maxThreads: threads,
    logLevel: "error",
    progressLogs: false,
  });
  const startedMs = performance.now();
  const model = await llama.loadModel({ modelPath });
  const loadMs = performance.now() - startedMs;

  /** The context has room for the last sampled token, at which it would otherwise begin to shift. */
  const open = async (prompts: number[][], steps: number) => {
    const contextSize = prompts[0].length + steps + 8;
    const context = await model.createContext({ sequences: prompts.length, contextSize, threads });
    const streams = prompts.map((prompt) =>
      context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true }),
    );
    return {
      /** All rows ask at once, so that the library evaluates them as one batch. */
      next: () => Promise.all(streams.map(async (stream) => Number((await stream.next()).value))),
      close: async () => {
        await Promise.all(streams.map((stream) => stream.return()));
        await context.dispose();
      },
    };
  };
  return {
    loadMs,
    async measure(prompts, steps) {
      const batch = await open(prompts, steps);
      const meter = new BatchMeter();
      for (let token = 0; token <= steps; token++) {
        await batch.next();
        meter.token();
      }
      await batch.close();
      return meter.result();
    },
    async answer({ promptIds, tokens }) {
      const batch = await open([promptIds], tokens);
      const ids = await batch.next();
      const startedMs = performance.now();
      while (ids.length < tokens) ids.push(...(await batch.next()));
      const ms = performance.now() - startedMs;
      await batch.close();
      return { ms, ids };
    },
    async firstIds(prompts) {
      const batch = await open(prompts, 0);
      const ids = await batch.next();
      await batch.close();
      return ids;
    },
  };
}
