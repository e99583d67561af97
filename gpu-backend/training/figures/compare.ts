/**
 * The shipped bank beside everything else that the same text and budget could have trained: all methods see the same windows,
 * what they choose they choose on validation with the first seed, and test windows are scored once. Each finished trial is kept.
 */
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import { LossMeter } from "../bank/loss.ts";
import { adaptedLosses, baseLosses } from "../bank/measure.ts";
import { readServedBank } from "../bank/served-bank.ts";
import type { BankSettings } from "../bank/settings.ts";
import { assignAll, embedWindows } from "../embed.ts";
import { comparedMethods, type Method, type Variant } from "../evaluation/methods.ts";
import { type Outcome, runTrial, type TrialContext } from "../evaluation/trial.ts";
import { keptOrMade } from "../kept-results.ts";
import { type Placed, type Prepared, place } from "../prepare.ts";

export interface CompareOptions extends BankSettings {
  artifacts: string;
  manifest: Manifest;
  manifestHash: string;
  seeds: readonly number[];
  cacheDirectory: string;
}

/** A method with what it chose and its outcome for each seed that trained it. */
export interface Trained {
  method: Method;
  variant: Variant;
  outcomes: Outcome[];
}

/** Everything that was scored: sums of nats per test window. */
export interface Compared {
  base: number[];
  shipped: number[];
  trained: Trained[];
}

export async function compareMethods(
  prepared: Prepared,
  options: CompareOptions,
  context: Omit<TrialContext, "prepared">,
): Promise<Compared> {
  const { seed, seeds, clusters, cacheDirectory } = options;
  const whole: TrialContext = { ...context, prepared };
  const first = place(prepared, clusters, seed);
  const { base, shipped } = await keptOrMade(cacheDirectory, "shipped-bank", [prepared.key, options.manifestHash], () =>
    scoreShipped(prepared, options, context.threads),
  );
  const trained: Trained[] = [];
  for (const method of comparedMethods(prepared.head, options, first.centroids.dimensions)) {
    const variant = await chosenVariant(method, first, options, whole);
    const outcomes: Outcome[] = [];
    for (const one of seeds.slice(0, method.seeds)) {
      const placed = one === seed ? first : place(prepared, clusters, one);
      outcomes.push(await trial(method, variant, one, false, placed, options, whole));
    }
    trained.push({ method, variant, outcomes });
  }
  return { base, shipped, trained };
}

/** What validation prefers, a round after the other: each round's variants are changes to the best before. */
async function chosenVariant(
  method: Method,
  placed: Placed,
  options: CompareOptions,
  context: TrialContext,
): Promise<Variant> {
  const { seed, learningRate, steps } = options;
  let best: Variant = { learningRate, steps };
  let loss = Number.POSITIVE_INFINITY;
  for (const round of method.rounds) {
    for (const change of round) {
      const variant = { ...best, ...change };
      const tried = method.screeningSteps ? { ...variant, steps: method.screeningSteps } : variant;
      const { validation } = await trial(method, tried, seed, true, placed, options, context);
      if (validation < loss) [best, loss] = [variant, validation];
    }
  }
  return best;
}

function trial(
  method: Method,
  variant: Variant,
  seed: number,
  choosesOnly: boolean,
  placed: Placed,
  { clusters, rank, biases, hidden, dimensions, cacheDirectory }: CompareOptions,
  context: TrialContext,
): Promise<Outcome> {
  const sizes = { clusters, rank, biases, hidden, dimensions, trainable: method.kind.trainable };
  const choices = [context.prepared.key, sizes, method.name, variant, seed, choosesOnly];
  return keptOrMade(cacheDirectory, "trial", choices, () =>
    runTrial(method, variant, seed, choosesOnly, placed, context),
  );
}

/** Test windows under the base and under the nearest adapter of the artifacts, from their bytes. */
async function scoreShipped(
  { head, sets }: Prepared,
  { artifacts, manifest }: CompareOptions,
  threads: number,
): Promise<{ base: number[]; shipped: number[] }> {
  const { shape, table, adapters, scales } = await readServedBank(artifacts, manifest);
  const meter = await LossMeter.open(head, shape, threads);
  try {
    const embeddings = embedWindows(sets.test.windows, table);
    const set = { ...sets.test, embeddings };
    const indexes = [...set.windows.keys()];
    const memberOf = assignAll(embeddings, adapters.centroids);
    return {
      base: [...(await baseLosses(meter, set, adapters.parameters, indexes))],
      shipped: [...(await adaptedLosses(meter, set, adapters, scales, memberOf, indexes))],
    };
  } finally {
    await meter.release();
  }
}
