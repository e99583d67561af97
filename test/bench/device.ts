/**
 * Measures our engine on one device, beside a floor: the time in which the device reads the weights and the rows' keys and values once, at
 * the rate of a large copy. A prefill may be above its floor, because it also computes.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { AdapterCache } from "../../gpu-backend/adapters/generated/adapter-cache.ts";
import { childEnvironment, chunkTokens } from "../../gpu-backend/config.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import { checkDevice } from "../../gpu-backend/host/device-check.ts";
import { openDeviceRunner } from "../../gpu-backend/kv/device-runner.ts";
import { bytesPerPosition, kvShapeOf } from "../../gpu-backend/kv/kv-budget.ts";
import { blockNames, PrefixCache } from "../../gpu-backend/kv/prefix-cache.ts";
import type { Runner } from "../../gpu-backend/kv/runner.ts";
import { packMemoryHead } from "../../gpu-backend/memory/memory.ts";
import { MemoryCache } from "../../gpu-backend/memory/memory-cache.ts";
import { openBase, readBaseConfig } from "../../gpu-backend/models/base.ts";
import { blockLayouts } from "../../gpu-backend/runtime/block-types.ts";
import { type DeviceReport, deviceFormats } from "../../gpu-backend/runtime/device.ts";
import { GraphBuilder } from "../../gpu-backend/runtime/graph.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { isBlockType, type ModelWeights, weightOf, weightShapes } from "../../gpu-backend/runtime/model-weights.ts";
import { kvFormatFor, type WeightFormat } from "../../gpu-backend/runtime/products.ts";
import { openSession, tensor } from "../../gpu-backend/runtime/session.ts";
import { defaultMemoryRule } from "../../shared/math/memory.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { smallBase } from "../support/small-base.ts";
import { randomBank, seededRandom } from "../support/steps.ts";
import { runGroup, skippedLine } from "./contest.ts";
import { promptsOf } from "./model.ts";
import { median } from "./quantile.ts";
import { tableLines } from "./report.ts";

interface DeviceBench {
  device: "webgpu" | "software";
  /** A small base and small batches, which a software adapter runs in a minute. */
  quick: boolean;
  threads: number;
  llamaFolder: string;
  say(line: string): void;
  note(line: string): void;
}

const sizes = {
  full: { base: embeddedBase, batches: [1, 8, 32, 128], contexts: [128, 1024], steps: 16, churn: 1000, memories: 16 },
  quick: { base: smallBase, batches: [1, 4], contexts: [32, 64], steps: 4, churn: 20, memories: 2 },
};
const churnSlots = 32;
const churnTokens = 4;
const adapterRank = 8;
const memoryKeys = 4096;
const hash = "0".repeat(64);

interface Served {
  config: ModelConfig;
  weights: ModelWeights;
  format: WeightFormat;
}

/** Bytes that a decode step of rows of this length has to read. */
function stepBytes({ config, weights, format }: Served, rows: number, context: number): number {
  const positionBytes = bytesPerPosition(kvShapeOf(config, kvFormatFor(format))) - 4 * config.hiddenSize;
  const read = [...weightShapes(config).keys()].map((name) => {
    const isEmbedding = name.startsWith("model.embed_tokens");
    // Of an embedding that is not the head, only a few rows are read.
    if (isEmbedding && !config.tiedHead) return 0;
    const { dtype, shape } = weightOf(weights, name);
    const elements = shape.reduce((product, size) => product * size);
    if (format === "exact" && isBlockType(dtype)) {
      const { bits, group, hasOffsets } = blockLayouts[dtype];
      return elements * ((bits === 4 ? 4 : 8) / 8 + (hasOffsets ? 8 : 4) / group);
    }
    return elements * (format === "fp16" && !isEmbedding && !name.startsWith("lm_head") ? 2 : 4);
  });
  return read.reduce((sum, bytes) => sum + bytes, rows * context * positionBytes);
}

export type DeviceFigures = Awaited<ReturnType<typeof measureDevice>>;

export async function measureDevice({ device, quick, threads, llamaFolder, say, note }: DeviceBench) {
  const { base: modelDirectory, batches, contexts, steps, churn, memories } = quick ? sizes.quick : sizes.full;
  const bytesPerMs = await deviceBandwidth(threads, quick ? 2 ** 22 : 2 ** 25);
  say(`a copy moves ${(bytesPerMs / 1e6).toFixed(1)} GB/s, read and written`);

  const { config: whole, weights, close } = await openBase(modelDirectory);
  const contextTokens = whole.positions === "learned" ? whole.contextTokens : 2 * contexts.at(-1)!;
  const config: ModelConfig = { ...whole, contextTokens: Math.min(whole.contextTokens, contextTokens) };
  const bank = randomBank(config, 64, 8, seededRandom(8));
  const limits = { maxSequences: batches.at(-1)!, kvBytes: Number.MAX_SAFE_INTEGER, threads };
  const rows: { format: WeightFormat; name: string; ms: number; tokensPerSecond: number; floorMs: number }[] = [];
  const reports: DeviceReport[] = [];
  const refusals: string[] = [];
  const { isInBlocks } = await readBaseConfig(modelDirectory);
  for (const format of deviceFormats.filter((one) => isInBlocks || one !== "exact")) {
    const tested = { modelDirectory, weightFormat: format, threads, device, isDeviceRequired: true };
    const report = await checkDevice(tested, childEnvironment()).catch((error: Error) => error);
    if (report instanceof Error) {
      refusals.push(`${format}: ${report.message}`);
      say(refusals.at(-1)!);
      continue;
    }
    reports.push(report);
    say(`${format} on ${report.adapter} (${report.driver}): ${report.found}`);
    const served = { config, weights, format };
    const runner = await openDeviceRunner({ ...served, bank }, { ...limits, runTokens: report.runTokens });
    const row = (name: string, ms: number, tokens: number, bytes: number) => {
      const [tokensPerSecond, floorMs] = [(1000 * tokens) / ms, bytes / bytesPerMs];
      rows.push({ format, name, ms, tokensPerSecond, floorMs });
      const cells = [`${ms.toFixed(2)} ms`, `${tokensPerSecond.toFixed(0)} t/s`, `floor ${floorMs.toFixed(3)} ms`];
      say(
        `${`${format} ${name}`.padEnd(40)}${cells.map((cell) => cell.padStart(18)).join("")}${(ms / floorMs).toFixed(1).padStart(8)}x`,
      );
    };
    // This run compiles kernels.
    await serve(runner, { sequences: 1, slots: 1, context: contexts[0], tokens: steps });
    for (const context of contexts) {
      for (const batch of batches) {
        const { decodeMs, firstMs } = await serve(runner, { sequences: batch, slots: batch, context, tokens: steps });
        const runs = Math.ceil(context / Math.min(report.runTokens, chunkTokens));
        if (batch === 1) row(`first token after ${context}`, firstMs, context, runs * stepBytes(served, 0, 0));
        row(`decode ${batch} x ${context}`, decodeMs, batch, stepBytes(served, batch, context));
      }
    }
    const slots = Math.min(churnSlots, batches.at(-1)!);
    // The prompt is one token longer than its blocks, so only one token is computed for each sequence.
    const churned = { sequences: churn, slots, context: contexts[0] + 1, tokens: churnTokens, hasAdapters: true };
    const { totalMs } = await serve(runner, churned);
    const churnSteps = Math.ceil(churn / slots) * churnTokens;
    const name = `${churn} adapters, ${churnTokens} tokens each`;
    row(name, totalMs, churn * churnTokens, churnSteps * stepBytes(served, slots, contexts[0]));
    const remembered = { sequences: memories, slots: memories, context: contexts[0], tokens: steps, hasMemories: true };
    const { decodeMs } = await serve(runner, remembered);
    row(`decode with ${memories} memories`, decodeMs, memories, stepBytes(served, memories, contexts[0]));
    await runner.release();
  }
  close();
  if (reports.length === 0) throw new Error(refusals.join("\n"));
  const peer = { system: "node-llama-cpp", format: "gguf-vulkan" } as const;
  const isThere = existsSync(join(llamaFolder, "node_modules/@node-llama-cpp/linux-x64-vulkan"));
  if (quick || !isThere) {
    const reason = quick ? "the small base is no GGUF file" : `\`npm ci\` in ${llamaFolder} installs it`;
    say(skippedLine({ ...peer, reason }));
    return { devices: reports, bytesPerMs, rows };
  }
  const cells = contexts.flatMap((context) => batches.map((batch) => ({ batch, context: context + 8, steps: 8 })));
  const peers = await runGroup([peer], cells, { rounds: 1, threads, gguf: join(embeddedBase, "model.gguf"), note });
  for (const cell of peers.skipped) say(skippedLine(cell));
  for (const line of tableLines(peers.rows)) say(line);
  return { devices: reports, bytesPerMs, rows, peers };
}

interface Load {
  sequences: number;
  slots: number;
  /** Tokens of the prompt. Sequences share the prompt, so most of it is computed once. */
  context: number;
  /** Minimum tokens that all `slots` sequences decode together. */
  tokens: number;
  hasAdapters?: boolean;
  hasMemories?: boolean;
}

/** `decodeMs`: median of the steps in which all slots decode. `firstMs`: time to the first token. */
async function serve(runner: Runner, { sequences, slots, context, tokens, hasAdapters, hasMemories }: Load) {
  const { hiddenSize, vocabularySize } = runner.config;
  const random = seededRandom(sequences);
  const floats = (length: number) => Float32Array.from({ length }, () => 0.1 * (random() - 0.5));
  const [change, gates] = [
    { a: floats(adapterRank * hiddenSize), b: floats((adapterRank + 1) * hiddenSize) },
    runner.gates,
  ];
  const generate = async (id: string) => ({
    ...{ hash: id, gates: floats(gates), scale: 1, bytes: 1 },
    changes: [{ change: { a: change.a.slice(), b: change.b.slice() }, weight: 1 }],
  });
  const ids = Int32Array.from({ length: memoryKeys + 1 }, () => Math.floor(random() * vocabularySize));
  const head = packMemoryHead([{ name: "text", ids, ends: Int32Array.from(ids.keys()) }], hiddenSize, hash);
  const keys = Int8Array.from({ length: memoryKeys * hiddenSize }, () => Math.floor(random() * 255) - 127);
  const cache = new MemoryCache({
    source: { read: async () => Buffer.concat([head, Buffer.from(keys.buffer)]) },
    shape: { manifestHash: hash, hiddenSize, vocabularySize },
    ...{ neighbours: defaultMemoryRule.neighbours, threads: 1, maximumBytes: Number.MAX_SAFE_INTEGER },
  });
  const now = () => performance.now();
  const startMs = now();
  const decoded: number[] = [];
  let firstMs = 0;
  const prefixCache = new PrefixCache(2 ** 30);
  const engine = new Engine({
    ...{ runner, now, prefixCache, memories: { cache, rule: defaultMemoryRule } },
    limits: {
      maxSequences: slots,
      maxQueue: 4 * sequences,
      stepTokens: slots * Math.max(context, chunkTokens),
      chunkTokens,
    },
    adapters: new AdapterCache({ hashOf: (id) => id, generate }, now),
    textPieceOf: () => Uint8Array.of(97),
    emit: (frames, report) => {
      for (const frame of frames) if (frame.type === "error") throw new Error(frame.message);
      if (frames.some(({ type }) => type === "token")) firstMs ||= now() - startMs;
      if (report?.phase === "decode" && report.sequences === slots) decoded.push(report.ms);
    },
  });
  const prompt = promptsOf(1, context)[0].map((id) => id % vocabularySize);
  for (let i = 0; i < sequences; i++) {
    const request = sequenceRequest(`${i}`, prompt, {
      maxTokens: tokens + (hasAdapters ? 0 : slots),
      memories: hasMemories ? [{ hash: `${i}`.padStart(64, "0") }] : undefined,
      sampling: { ignore_eos: true },
    });
    await engine.submit(hasAdapters ? `${i}` : null, [request]);
  }
  while (engine.busy) await engine.step();
  const totalMs = now() - startMs;
  // The cache's blocks are on the device. All prompts begin with the same blocks.
  const { tenant } = sequenceRequest("", prompt);
  for (const { block } of prefixCache.take(tenant, blockNames(tenant, prompt, chunkTokens), prompt, false)) {
    block.kv.free();
  }
  return { decodeMs: median(decoded), firstMs, totalMs };
}

/** Bytes that the device reads and writes in a millisecond: the difference between many copies of an array and one. */
async function deviceBandwidth(threads: number, elements: number): Promise<number> {
  const copies = 33;
  const timeOf = async (count: number) => {
    const g = new GraphBuilder("copies");
    const one = g.input("one", "float32", []);
    let array = g.node("Expand", [one, g.integers(elements)]);
    for (let i = 0; i < count; i++) array = g.node("Add", [array, one]);
    g.output("last", g.node("Slice", [array, g.integers(-1), g.integers(elements)]), "float32", [1]);
    const session = await openSession(g.bytes(), { threads, device: "webgpu" });
    const times: number[] = [];
    for (let run = 0; run < 6; run++) {
      const startMs = performance.now();
      // Reading the result waits for the device.
      const { last } = await session.run({ one: tensor(Float32Array.of(1), []) });
      times.push(performance.now() - startMs);
      if ((last.data as Float32Array)[0] !== count + 1) throw new Error("the device adds wrong");
    }
    await session.release();
    return Math.min(...times);
  };
  const ms = (await timeOf(copies)) - (await timeOf(1));
  return (8 * elements * (copies - 1)) / ms;
}
