/**
 * The banks that calibration learns from: the one that is served, one that is trained on all families of corpora, whose trials are of held-out
 * documents (known text), and one for each family that is trained without it, whose trials are of that family (unknown
 * text). All that training makes is made anew for each of the latter: prompt space, centroids, bank, scales; only hidden states, which no
 * bank changes, are computed once. Finished folds are kept, so the same command goes on where it was.
 */
import { calibratedPointer, evidencePositions } from "../../../shared/math/evidence.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import { gatedKind } from "../bank/bank-kinds.ts";
import { subsetOf, type WindowSet } from "../bank/batches.ts";
import { LossMeter } from "../bank/loss.ts";
import { chooseScales, hyperNetworkAdapters } from "../bank/measure.ts";
import { bankShape } from "../bank/parameters.ts";
import { runToEnd } from "../bank/run.ts";
import { hashOfBank, type ServedBank } from "../bank/served-bank.ts";
import type { BankSettings } from "../bank/settings.ts";
import { Trainer } from "../bank/trainer.ts";
import { type HeadFormat, headIn } from "../bank/training-graph.ts";
import { documentKey, sampleWindows, type Window } from "../corpus/windows.ts";
import { keptOrMade } from "../kept-results.ts";
import { keyOf, type Prepared, place, promptSpaceOf } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import type { GroupedTrial } from "./choose.ts";
import type { Family } from "./families.ts";
import { longEnough, promptLengths, type TrialContext, trialsOf } from "./trials.ts";

/** Settings of each fold's training. */
export interface FoldOptions extends BankSettings {
  headFormat: HeadFormat;
  trainWindows: number;
  /** For the choice of scales. */
  validationWindows: number;
  /** Texts of each corpus that trials are made of. */
  textsPerCorpus: number;
}

/** At most so many texts of one document are used, because they are alike. */
const textsPerDocument = 3;
/** What all trials depend on. */
const measured = [promptLengths, evidencePositions, calibratedPointer];

export interface FoldContext {
  prepared: Prepared;
  trunk: TrunkRunner;
  families: readonly Family[];
  cacheDirectory: string;
  threads: number;
  progress: Progress;
  signal?: AbortSignal;
}

/** Trials of all validation text under the served bank. */
export function trialsOfServed(bank: ServedBank, context: FoldContext): Promise<GroupedTrial[]> {
  const { families, prepared, cacheDirectory, threads } = context;
  const { head, sets, key } = prepared;
  const choices = [key, hashOfBank(bank), keyOf(families), measured];
  return keptOrMade(cacheDirectory, "calibration-served", choices, async () => {
    const group = { suffix: ", served", isServed: true };
    const meter = await LossMeter.open(head, bank.shape, threads);
    try {
      return await groupedTrials(sets.validation.windows, { ...bank, meter }, group, context);
    } finally {
      await meter.release();
    }
  });
}

/** Trials of known text under a bank of all families, then of each family under a bank of the others. */
export async function trialsOfFolds(options: FoldOptions, context: FoldContext): Promise<GroupedTrial[]> {
  const { families, prepared, cacheDirectory } = context;
  const trials: GroupedTrial[] = [];
  for (const leftOut of [null, ...families]) {
    const key = [prepared.key, options, keyOf(families), measured, leftOut];
    trials.push(...(await keptOrMade(cacheDirectory, "calibration", key, () => runFold(leftOut, options, context))));
  }
  return trials;
}

/** Throws the signal's reason when aborted: a fold is done whole or not at all. */
async function runFold(leftOut: Family | null, options: FoldOptions, context: FoldContext): Promise<GroupedTrial[]> {
  const { prepared, threads, progress, signal } = context;
  const { seed, steps, learningRate, headFormat } = options;
  const { head, corpora } = prepared;
  const random = new Random(seed, streams.calibration);
  const nameOf = (window: Window) => corpora[window.corpus].name;
  const isTrainedOn = (window: Window) => !leftOut?.corpora.includes(nameOf(window));
  const train = drawn(prepared.sets.train, isTrainedOn, options.trainWindows, random);
  const validation = drawn(prepared.sets.validation, isTrainedOn, options.validationWindows, random);
  const sets = { train, validation, test: subsetOf(prepared.sets.test, []) };
  const space = promptSpaceOf(head, train.windows, options.dimensions);
  const placed = place({ head, space, sets }, options.clusters, seed);
  const shape = bankShape({ ...options, dimensions: space.dimensions });
  const trainer = await Trainer.open(
    gatedKind(headIn(headFormat, head), shape),
    placed.sets.train,
    { centroids: placed.centroids.vectors, memberOf: placed.memberOf },
    { seed, steps, learningRate, input: "jittered", threads },
    null,
  );
  const { parameters } = await runToEnd(trainer, leftOut ? `without ${leftOut.name}` : "calibration", progress, () =>
    signal?.throwIfAborted(),
  );
  const adapters = hyperNetworkAdapters(head, shape, parameters, placed.centroids);
  const meter = await LossMeter.open(head, shape, threads);
  try {
    const scales = await chooseScales(meter, placed.sets.validation, adapters);
    const texts = leftOut
      ? [...prepared.sets.train.windows, ...prepared.sets.validation.windows].filter((window) => !isTrainedOn(window))
      : prepared.sets.validation.windows;
    const chosen = textsOf(texts, options.textsPerCorpus, random);
    const { table } = placed;
    const group = { suffix: leftOut ? ", left out" : "", isServed: false };
    return await groupedTrials(chosen, { table, adapters, scales, meter }, group, context);
  } finally {
    await meter.release();
  }
}

async function groupedTrials(
  texts: readonly Window[],
  bank: Omit<TrialContext, "trunk">,
  { suffix, isServed }: { suffix: string; isServed: boolean },
  { prepared, trunk, families, progress, signal }: FoldContext,
): Promise<GroupedTrial[]> {
  progress.stage("trials", texts.length);
  const trials: GroupedTrial[] = [];
  for (const [done, window] of texts.entries()) {
    signal?.throwIfAborted();
    const { name } = prepared.corpora[window.corpus];
    const family = families.find(({ corpora }) => corpora.includes(name))!.name;
    for (const trial of await trialsOf(window, { ...bank, trunk })) {
      trials.push({ ...trial, group: `${name}${suffix}`, family, isServed });
    }
    progress.advance(done + 1);
  }
  return trials;
}

/** Some of the windows that are wanted, shared fairly among corpora. */
function drawn(set: WindowSet, wanted: (window: Window) => boolean, limit: number, random: Random): WindowSet {
  const chosen = new Set(sampleWindows(set.windows.filter(wanted), limit, random));
  return subsetOf(
    set,
    [...set.windows.keys()].filter((i) => chosen.has(set.windows[i])),
  );
}

/** As many texts of each corpus, those that are long enough for every prompt if there are any. */
function textsOf(windows: readonly Window[], perCorpus: number, random: Random): Window[] {
  const byCorpus = Map.groupBy(windows, ({ corpus }) => corpus);
  return [...byCorpus.values()].flatMap((all) => {
    const long = all.filter(({ tokenIds }) => tokenIds.length >= longEnough);
    const counts = new Map<string, number>();
    const spread = random.shuffled(long.length > 0 ? long : all).filter((window) => {
      const count = (counts.get(documentKey(window)) ?? 0) + 1;
      counts.set(documentKey(window), count);
      return count <= textsPerDocument;
    });
    return spread.slice(0, perCorpus);
  });
}
