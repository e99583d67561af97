/** Calibrates evidence: from families of corpora to the manifest's `evidence`, and to what it is expected to gain. */
import { createTrunkRunner } from "../../runtime/trunk-runner.ts";
import { documentMean, type Gain } from "../bank/gain.ts";
import type { ServedBank } from "../bank/served-bank.ts";
import type { Prepared } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import {
  calibrationOf,
  choose,
  type GroupedTrial,
  gainOf,
  type Measured,
  measureGrid,
  nearestAlone,
  weightsOf,
} from "./choose.ts";
import type { Family } from "./families.ts";
import { type FoldOptions, trialsOfFolds, trialsOfServed } from "./folds.ts";
import { promptLengths } from "./trials.ts";

export interface CalibrateOptions extends FoldOptions {
  families: readonly Family[];
  cacheDirectory: string;
  threads: number;
}

/** What a mixture and the nearest adapter gain over the base on one kind of text, in nats a token. */
export interface CalibrationRow {
  group: string;
  promptTokens: number;
  mixture: Gain;
  nearest: Gain;
}

export interface Calibrated {
  calibration: ReturnType<typeof calibrationOf>;
  /** Each family's rows under what is chosen without that family; only what is typical of a prompt is of all. */
  rows: CalibrationRow[];
}

/** Says what calibration takes, as steps of training. */
export function calibrationCost({
  families,
  steps,
  textsPerCorpus,
}: Pick<CalibrateOptions, "families" | "steps" | "textsPerCorpus">): string {
  const folds = families.length + 1;
  return `calibrating evidence will take ${folds} trainings of ${steps} steps, ${folds * steps} in all, ${textsPerCorpus} texts of each corpus twice, and all validation text once`;
}

/**
 * Deterministic. The served bank gains more on known text than the banks of fewer steps, so whether the mixture falls behind the
 * nearest adapter is judged on it; everything else is judged on the banks that families are left out of. Throws the signal's reason when aborted; finished folds stay
 * in the cache.
 */
export async function calibrate(
  prepared: Prepared,
  served: ServedBank,
  options: CalibrateOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Calibrated> {
  const { families, cacheDirectory, threads, ...foldOptions } = options;
  const trunk = await createTrunkRunner({ ...prepared.model, threads });
  const context = { prepared, trunk, families, cacheDirectory, threads, progress, signal };
  const trials: GroupedTrial[] = [];
  try {
    trials.push(...(await trialsOfServed(served, context)));
    trials.push(...(await trialsOfFolds(foldOptions, context)));
  } finally {
    await trunk.release();
  }
  const byLength = promptLengths
    .map((promptTokens) => ({ promptTokens, trials: trials.filter((trial) => trial.promptTokens === promptTokens) }))
    .filter(({ trials: some }) => some.length > 0);
  progress.stage("weighing", byLength.length);
  const measured = byLength.map(({ promptTokens, trials: some }, done) => {
    signal?.throwIfAborted();
    const one = measureGrid(promptTokens, some);
    progress.advance(done + 1);
    return one;
  });
  return {
    calibration: calibrationOf(measured, choose(measured)),
    rows: crossValidated(measured, byLength, families, foldOptions.seed),
  };
}

function crossValidated(
  measured: readonly Measured[],
  byLength: readonly { promptTokens: number; trials: readonly GroupedTrial[] }[],
  families: readonly Family[],
  seed: number,
): CalibrationRow[] {
  const random = new Random(seed, streams.bootstrap);
  return families.flatMap(({ name }) => {
    const choice = choose(measured, (family) => family !== name);
    const calibration = calibrationOf(measured, choice);
    return byLength.flatMap(({ promptTokens, trials }) => {
      const groups = Map.groupBy(
        trials.filter(({ family, isServed }) => family === name && !isServed),
        ({ group }) => group,
      );
      return [...groups].map(([group, members]) => {
        const meanOf = (gain: (trial: GroupedTrial) => number) =>
          documentMean(
            members.map((trial) => ({ ...trial, tokens: trial.continuation.length, sum: gain(trial) })),
            random,
          )!;
        return {
          ...{ group, promptTokens },
          mixture: meanOf((trial) => gainOf(trial, weightsOf(trial, calibration))),
          nearest: meanOf((trial) => gainOf(trial, nearestAlone(trial))),
        };
      });
    });
  });
}
