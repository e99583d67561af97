/** One trial: trains one method with one seed, and scores validation and test windows. */
import { LossMeter } from "../bank/loss.ts";
import { adaptedLosses, chooseScales } from "../bank/measure.ts";
import type { Parameters } from "../bank/parameters.ts";
import { runToEnd } from "../bank/run.ts";
import { Trainer } from "../bank/trainer.ts";
import { scoredTokens } from "../corpus/windows.ts";
import { assignAll } from "../embed.ts";
import type { Placed, Prepared } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { batchMeanLosses } from "./batch-mean.ts";
import { bankMethod, type Method, paperNetwork, staticMethod, type Variant } from "./methods.ts";

/** What a trial leaves behind: numbers alone, so that it can be kept on disk. Losses are sums of nats per test window. */
export interface Outcome {
  /** Mean loss on validation at full strength, nats a token. */
  validation: number;
  /** null: the trial only chose. */
  losses: number[] | null;
  /** Of the static head, with a scale for each domain that validation chose: it is told the domain, which serving is not. */
  scaledByDomain: number[] | null;
  /** Of the bank, under another centroid's adapter. */
  wrongCentroid: number[] | null;
}

export interface TrialContext {
  prepared: Prepared;
  threads: number;
  progress: Progress;
  signal?: AbortSignal;
}

/** Throws the signal's reason when aborted: a trial is done whole or not at all. */
export async function runTrial(
  method: Method,
  variant: Variant,
  seed: number,
  choosesOnly: boolean,
  placed: Placed,
  context: TrialContext,
): Promise<Outcome> {
  const { prepared, threads, progress, signal } = context;
  const clusters = { centroids: placed.centroids.vectors, memberOf: placed.memberOf };
  const options = { seed, ...variant, input: method.input, threads };
  const trainer = await Trainer.open(method.kind, placed.sets.train, clusters, options, null);
  const { parameters } = await runToEnd(trainer, `${method.name}, seed ${seed}`, progress, () =>
    signal?.throwIfAborted(),
  );
  const meter = await LossMeter.open(prepared.head, method.measured, threads);
  try {
    const { windows } = placed.sets.validation;
    const losses = await lossesOn("validation", method, parameters, meter, placed, prepared);
    const tokens = windows.reduce((sum, window) => sum + scoredTokens(window), 0);
    const outcome: Outcome = {
      validation: losses.reduce((sum, nats) => sum + nats, 0) / tokens,
      ...{ losses: null, scaledByDomain: null, wrongCentroid: null },
    };
    if (choosesOnly) return outcome;
    outcome.losses = await lossesOn("test", method, parameters, meter, placed, prepared);
    if (method.name === staticMethod)
      outcome.scaledByDomain = await scaledByDomain(method, parameters, meter, placed, prepared);
    if (method.name === bankMethod)
      outcome.wrongCentroid = await wrongCentroid(method, parameters, meter, placed, seed);
    return outcome;
  } finally {
    await meter.release();
  }
}

/** At full strength, assigned by the prefix. */
async function lossesOn(
  split: "validation" | "test",
  method: Method,
  parameters: Parameters,
  meter: LossMeter,
  placed: Placed,
  { head }: Prepared,
): Promise<number[]> {
  const set = placed.sets[split];
  const indexes = [...set.windows.keys()];
  if (!method.adapters) {
    const network = paperNetwork(head, placed.centroids.dimensions, parameters);
    return [...(await batchMeanLosses(meter, set, indexes, network, placed.centroids))];
  }
  const adapters = method.adapters(parameters, placed.centroids);
  const memberOf = assignAll(set.embeddings, adapters.centroids);
  return [...(await adaptedLosses(meter, set, adapters, fullScales(adapters.centroids.count), memberOf, indexes))];
}

async function scaledByDomain(
  method: Method,
  parameters: Parameters,
  meter: LossMeter,
  { sets, centroids }: Placed,
  { corpora }: Prepared,
): Promise<number[]> {
  const one = method.adapters!(parameters, centroids);
  const byDomain = { ...one, centroids: { ...one.centroids, count: corpora.length } };
  const domainOf = (split: "validation" | "test") => Int32Array.from(sets[split].windows, ({ corpus }) => corpus);
  const scales = await chooseScales(meter, sets.validation, byDomain, domainOf("validation"));
  const indexes = [...sets.test.windows.keys()];
  return [...(await adaptedLosses(meter, sets.test, byDomain, scales, domainOf("test"), indexes))];
}

/** Each window under a centroid that is not its own, all others as likely. */
async function wrongCentroid(
  method: Method,
  parameters: Parameters,
  meter: LossMeter,
  { sets, centroids }: Placed,
  seed: number,
): Promise<number[]> {
  const adapters = method.adapters!(parameters, centroids);
  const random = new Random(seed, streams.wrongCentroid);
  const { count: K } = centroids;
  const others = assignAll(sets.test.embeddings, centroids).map((k) =>
    K < 2 ? k : (k + 1 + random.integer(K - 1)) % K,
  );
  const indexes = [...sets.test.windows.keys()];
  return [...(await adaptedLosses(meter, sets.test, adapters, fullScales(K), others, indexes))];
}

function fullScales(count: number): Float32Array {
  return new Float32Array(count).fill(1);
}
