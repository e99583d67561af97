/**
 * What the prefix cache saves: the prefill of a prompt whose first tokens another prompt had before, under another
 * centroid, beside the prefill of the same prompt for a tenant that has nothing in the cache.
 */
import { AdapterCache } from "../../gpu-backend/adapters/generated/adapter-cache.ts";
import { chunkTokens } from "../../gpu-backend/config.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import { PrefixCache } from "../../gpu-backend/kv/prefix-cache.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { DoneFrame } from "../../shared/contracts/inference.ts";
import { fakeAdapters, sequenceRequest } from "../support/engine-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { gpt2Bank, gpt2Config, gpt2Weights } from "./model.ts";
import { median } from "./quantile.ts";

const limits = { maxSequences: 32, maxQueue: 256, stepTokens: 256, chunkTokens };

export interface PrefixRow {
  format: WeightFormat;
  sharedTokens: number;
  ownTokens: number;
  reusedTokens: number;
  prefillMs: number;
  /** Without a hit. */
  prefillMsWithout: number;
  /** Median over the rounds of 1 − the pair's ratio. */
  saved: number;
}

export async function measurePrefix(
  format: WeightFormat,
  prompts: { sharedTokens: number; ownTokens: number },
  options: { threads: number; rounds: number },
): Promise<PrefixRow> {
  const { sharedTokens, ownTokens } = prompts;
  const { threads, rounds } = options;
  const runner = await createStepRunner({
    config: gpt2Config,
    weights: await gpt2Weights(),
    bank: gpt2Bank(),
    threads,
    format,
  });
  const now = () => performance.now();
  const done = new Map<string, DoneFrame>();
  const engine = new Engine({
    runner: new HostRunner(runner, { ...limits, kvBytes: 2 ** 31 }),
    adapters: new AdapterCache(fakeAdapters(runner.gates), now),
    prefixCache: new PrefixCache(2 ** 28),
    limits,
    textPieceOf: () => Uint8Array.of(97),
    now,
    emit(frames) {
      for (const frame of frames) {
        if (frame.type === "error") throw new Error(frame.message);
        if (frame.type === "done") done.set(frame.id, frame);
      }
    },
  });
  const random = seededRandom(64);
  const draw = (tokens: number) => Array.from({ length: tokens }, () => Math.floor(random() * gpt2Config.stopIds[0]));
  const run = async (id: string, centroid: string, tenant: string, promptIds: number[]) => {
    await engine.submit(centroid, [sequenceRequest(id, promptIds, { tenant, maxTokens: 1 })]);
    while (engine.busy) await engine.step();
    return done.get(id)!;
  };

  const pairs: { ms: number; withoutMs: number }[] = [];
  let reusedTokens = 0;
  for (let round = 0; round < rounds; round++) {
    const shared = draw(sharedTokens);
    const prompt = [...shared, ...draw(ownTokens)];
    await run(`first-${round}`, "c0", "tenant", [...shared, ...draw(ownTokens)]);
    const hit = () => run(`hit-${round}`, "c1", "tenant", prompt);
    const miss = () => run(`miss-${round}`, "c1", `tenant-${round}`, prompt);
    const [one, other] = round % 2 === 0 ? [await hit(), await miss()] : [await miss(), await hit()].toReversed();
    reusedTokens = one.reusedTokens ?? 0;
    pairs.push({ ms: one.timings.prefillMs, withoutMs: other.timings.prefillMs });
  }
  await runner.release();
  return {
    format,
    sharedTokens,
    ownTokens,
    reusedTokens,
    prefillMs: median(pairs.map(({ ms }) => ms)),
    prefillMsWithout: median(pairs.map(({ withoutMs }) => withoutMs)),
    saved: 1 - median(pairs.map(({ ms, withoutMs }) => ms / withoutMs)),
  };
}

export function prefixLine(row: PrefixRow): string {
  const what = `${row.sharedTokens} tokens shared across two centroids, ${row.ownTokens} own`;
  const times = `prefill ${row.prefillMs.toFixed(1)} ms, without ${row.prefillMsWithout.toFixed(1)}`;
  return `prefix ${row.format}, ${what}: ${row.reusedTokens} reused, ${times}: ${(100 * row.saved).toFixed(1)}% saved`;
}
