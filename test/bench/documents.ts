/**
 * What memories of tenants' documents cost in the real engine, over the embedded base: decode steps, the first token of a prompt, a
 * scored prompt, and the making of keys. Keys are random, as the time of a search does not depend on them. With and without memories
 * run in turn on one engine; intervals are of the medians over the pairs.
 */
import { AdapterCache } from "../../gpu-backend/adapters/generated/adapter-cache.ts";
import { chunkTokens } from "../../gpu-backend/config.ts";
import { artifactsOf } from "../../gpu-backend/engine/artifacts.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import type { PhaseReport } from "../../gpu-backend/engine/messages.ts";
import { openModel } from "../../gpu-backend/engine/open-model.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import { packMemoryHead } from "../../gpu-backend/memory/memory.ts";
import { MemoryCache } from "../../gpu-backend/memory/memory-cache.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { defaultMemoryRule as rule } from "../../shared/math/memory.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { fakeAdapters, sequenceRequest } from "../support/engine-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { median } from "./quantile.ts";

const limits = { maxSequences: 32, maxQueue: 256, stepTokens: 256, chunkTokens };
const promptTokens = 128;
/** The base alone weighs: only its prompt's first tokens are evidence, so that the rest is scored with the memory. */
const evidence = { tokens: 32, temper: 0, floor: 1 };

/** Tokens of each memory, rows, and whether rows share one or have one each. */
const cells = [
  ...[16_384, 65_536, 262_144].flatMap((tokens) => [1, 8].map((batch) => ({ tokens, batch, isShared: true }))),
  { tokens: 16_384, batch: 8, isShared: false },
];

interface Cost {
  ms: number;
  msWithout: number;
  /** Median over the pairs of their ratio − 1, with its 95% interval. */
  cost: number;
  ci95: [number, number];
}

export interface DocumentsRow {
  format: WeightFormat;
  tokens: number;
  batch: number;
  isShared: boolean;
  /** A decode step; milliseconds of prefill a prompt, its first token included; and of a prompt that is scored. */
  decode: Cost;
  prefill: Cost;
  echo: Cost;
}

export interface DocumentsFigures {
  rows: DocumentsRow[];
  /** Of prompts of 511 tokens: what making keys takes beside a plain prefill, and tokens a second of it. */
  building: Cost & { tokensPerSecond: number };
}

export async function measureDocuments(
  format: WeightFormat,
  options: { threads: number; pairs: number; steps: number; say(line: string): void },
): Promise<DocumentsFigures> {
  const { threads, pairs, steps, say } = options;
  const now = () => performance.now();
  const { runner, manifestHash, manifest } = await openModel(
    {
      ...{ modelDirectory: embeddedBase, artifactsDirectory: artifactsOf(embeddedBase) },
      ...{ threads, weightFormat: format, device: "cpu" },
    },
    now,
  );
  const { hiddenSize, vocabularySize } = runner.config;
  const random = seededRandom(35);
  const cache = new MemoryCache({
    source: { read: async (_, hash) => memoryFile(Number(hash)) },
    shape: { manifestHash, hiddenSize, vocabularySize },
    ...{ neighbours: rule.neighbours, threads, maximumBytes: 2 ** 31 },
  });
  const memoryFile = (tokens: number) => {
    const ids = Int32Array.from({ length: tokens + 1 }, () => Math.floor(random() * vocabularySize));
    const head = packMemoryHead([{ name: "a", ids, ends: Int32Array.from(ids.keys()) }], hiddenSize, manifestHash);
    const keys = Int8Array.from({ length: tokens * hiddenSize }, () => Math.round(36 * (random() + random() - 1)));
    return Buffer.concat([head, Buffer.from(keys.buffer)]);
  };
  let reports: PhaseReport[] = [];
  const engine = new Engine({
    runner: new HostRunner(runner, { ...limits, kvBytes: 2 ** 30 }),
    adapters: new AdapterCache(fakeAdapters(runner.gates), now),
    memories: { cache, rule },
    prefixCache: null,
    limits,
    textPieceOf: () => Uint8Array.of(97),
    now,
    emit(frames, report) {
      for (const frame of frames) if (frame.type === "error") throw new Error(frame.message);
      if (report) reports.push(report);
    },
  });
  const draw = (length: number) => Array.from({ length }, () => Math.floor(random() * vocabularySize));
  let runs = 0;
  const run = async (requests: Partial<SequenceRequest>[], traced: Parameters<Engine["submit"]>[2] = null) => {
    reports = [];
    runs++;
    const all = requests.map((rest, i) => ({ ...sequenceRequest(`r${runs}_${i}`, draw(promptTokens)), ...rest }));
    await engine.submit(null, all, traced);
    while (engine.busy) await engine.step();
    const ofAll = reports.filter(({ phase, sequences }) => phase === "decode" && sequences === requests.length);
    const prefills = reports.filter(({ phase }) => phase === "prefill");
    return {
      decode: median(ofAll.map(({ ms }) => ms)),
      prefill: prefills.reduce((sum, { ms }) => sum + ms, 0) / requests.length,
    };
  };

  const rows: DocumentsRow[] = [];
  for (const { tokens, batch, isShared } of cells) {
    const readers = Array.from({ length: batch }, (_, i) => ({
      ...{ tenant: isShared ? "t" : `t${i}`, memories: [{ hash: `${tokens}` }] },
      sampling: { temperature: 0, ignore_eos: true },
      // The first rows decode while the last are prefilled.
      maxTokens: steps + Math.ceil((batch * promptTokens) / limits.stepTokens),
    }));
    const others = readers.map(({ memories, ...rest }) => rest);
    const scored = (of: typeof others) =>
      of.map((one) => ({
        ...{ ...one, maxTokens: 0, promptLogprobs: true, mixture: { base: 1, adapters: [], evidence } },
      }));
    await run(readers);
    const answers = await inTurn(
      pairs,
      () => run(readers),
      () => run(others),
    );
    const echoes = await inTurn(
      pairs,
      () => run(scored(readers)),
      () => run(scored(others)),
    );
    const row = {
      ...{ format, tokens, batch, isShared },
      decode: costOf(answers, ({ decode }) => decode),
      prefill: costOf(answers, ({ prefill }) => prefill),
      echo: costOf(echoes, ({ prefill }) => prefill),
    };
    say(documentsLine(row));
    rows.push(row);
  }
  const tokens = Math.min(512, manifest.model.contextTokens) - 1;
  const windows = Array.from({ length: 4 }, () => ({ maxTokens: 0, promptIds: draw(tokens) }));
  const keys = { kind: "keys" as const, take() {} };
  const built = await inTurn(
    pairs,
    () => run(windows, keys),
    () => run(windows.map((one) => ({ ...one, maxTokens: 1 }))),
  );
  await runner.release();
  const building = costOf(built, ({ prefill }) => prefill);
  const tokensPerSecond = (1000 * tokens) / building.ms;
  say(`documents ${format}, keys of ${tokens} tokens: ${tokensPerSecond.toFixed(0)} tokens/s, ${costText(building)}`);
  return { rows, building: { ...building, tokensPerSecond } };
}

type Pair<T> = { one: T; other: T };

async function inTurn<T>(pairs: number, one: () => Promise<T>, other: () => Promise<T>): Promise<Pair<T>[]> {
  const results: Pair<T>[] = [];
  for (let pair = 0; pair < pairs; pair++) {
    const isFirst = pair % 2 === 0;
    const first = await (isFirst ? one() : other());
    const second = await (isFirst ? other() : one());
    results.push(isFirst ? { one: first, other: second } : { one: second, other: first });
  }
  return results;
}

function costOf<T>(pairs: readonly Pair<T>[], of: (result: T) => number): Cost {
  const ratios = pairs.map(({ one, other }) => of(one) / of(other) - 1).sort((a, b) => a - b);
  // The order statistics that hold the median with 95%: the sign test's, in its normal approximation.
  const edge = Math.max(0, Math.floor(ratios.length / 2 - 0.98 * Math.sqrt(ratios.length)));
  return {
    ms: median(pairs.map(({ one }) => of(one))),
    msWithout: median(pairs.map(({ other }) => of(other))),
    cost: median(ratios),
    ci95: [ratios[edge], ratios[ratios.length - 1 - edge]],
  };
}

function costText({ ms, msWithout, cost, ci95 }: Cost): string {
  const percent = (share: number) => `${share < 0 ? "" : "+"}${(100 * share).toFixed(1)}%`;
  return `${ms.toFixed(2)} ms, without ${msWithout.toFixed(2)}: ${percent(cost)} [${ci95.map(percent).join(", ")}]`;
}

function documentsLine({ format, tokens, batch, isShared, decode, prefill, echo }: DocumentsRow): string {
  const what = `documents ${format}, ${tokens} tokens ${isShared ? "shared" : "each"}, batch ${batch}`;
  return `${what}: step ${costText(decode)}; prefill ${costText(prefill)}; scored prompt ${costText(echo)}`;
}
