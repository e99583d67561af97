/** Scores the same tokens of several sources by every method after prompts of several lengths, through the serving engine. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, writeWhole } from "../../files.ts";
import { keyOf } from "../../training/prepare.ts";
import type { Progress } from "../../training/progress.ts";
import type { Estimate, Evaluation, EvaluationRow, PromptLength } from "./data.ts";
import type { EngineScorer } from "./engine-scorer.ts";
import { type Placement, type Plan, Prompt } from "./serving.ts";
import { byDocument, difference, overDomains } from "./statistics.ts";
import { hasPrompt, type Text, withPrompt } from "./texts.ts";

export const promptLengths = [8, 16, 32, 64, 128, 256] as const;
export const maxPromptTokens = promptLengths[promptLengths.length - 1];
/** Fewer documents have no interval. */
const minDocuments = 2;

export interface Source extends Pick<EvaluationRow, "kind" | "name" | "known" | "heldOut"> {
  texts: Text[];
  /** Questions with their answers; empty where the corpus has none. */
  answers: Text[];
  /** Token ids of texts for an own adapter, of documents that are not scored. */
  examples: number[][];
}

export interface Method {
  scorer: EngineScorer;
  plan: (prompt: Prompt, index: number, source: Source) => Plan;
}

export interface MeasureOptions {
  /** By name; "base" and "mixture" are always among them. */
  methods: Record<string, Method>;
  placement: Placement;
  /** Everything besides texts and methods' names that scores depend on. */
  cacheKey: readonly unknown[];
  cacheDirectory: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** Log-likelihood of each text's scored tokens, in nats, by method. */
type Scores = Record<string, number[]>;

/** Texts of one source after prompts of one length, with their scores. */
interface Cell {
  source: Source;
  prompt: PromptLength;
  texts: Text[];
  scores: Scores;
}

/** Throws the signal's reason when aborted; finished cells stay in the cache. */
export async function measureSources(
  sources: readonly Source[],
  options: MeasureOptions,
): Promise<Pick<Evaluation, "rows" | "means">> {
  const { methods, cacheKey, cacheDirectory, progress, signal } = options;
  const wanted = sources
    .flatMap((source) => [
      ...promptLengths.map((prompt) => ({
        source,
        prompt,
        texts: source.texts.filter((text) => hasPrompt(text, prompt)),
      })),
      { source, prompt: "question" as const, texts: source.answers },
    ])
    .filter(({ texts }) => new Set(texts.map(({ document }) => document)).size >= minDocuments);
  const cells: Cell[] = [];
  progress.stage("evaluation", wanted.length);
  for (const { source, prompt, texts } of wanted) {
    signal?.throwIfAborted();
    const ids = texts.map((text) => (prompt === "question" ? text.ids : withPrompt(text, prompt)));
    const path = join(cacheDirectory, `scores-${keyOf(...cacheKey, Object.keys(methods), texts, ids)}.json`);
    const cached = await readFile(path, "utf8").catch(nullIfMissing);
    const scores = cached === null ? await scoresOf(source, texts, ids, options) : (JSON.parse(cached) as Scores);
    if (cached === null) await writeWhole(path, JSON.stringify(scores));
    cells.push({ source, prompt, texts, scores });
    progress.advance(cells.length, `${source.name}, ${prompt}`);
  }
  return { rows: cells.map(rowOf), means: meansOf(cells) };
}

async function scoresOf(
  source: Source,
  texts: readonly Text[],
  ids: readonly number[][],
  { methods, placement }: MeasureOptions,
): Promise<Scores> {
  const scores: Scores = {};
  for (const [name, { scorer, plan }] of Object.entries(methods)) {
    scores[name] = await scorer.score(
      ids.map((own, i) => {
        const { scored } = texts[i];
        const prompt = new Prompt(own.slice(0, own.length - scored), placement);
        return { ids: own, scored, plan: plan(prompt, i, source) };
      }),
    );
  }
  return scores;
}

function rowOf({ source, prompt, texts, scores }: Cell): EvaluationRow {
  const { kind, name, known, heldOut } = source;
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const nats = -sum(scores.base);
  const differences = byMethod(scores, (own) => difference(texts, own, scores.base));
  return {
    ...{ kind, name, prompt, known, heldOut },
    documents: new Set(texts.map(({ document }) => document)).size,
    texts: texts.length,
    base: {
      nats: nats / sum(texts.map(({ scored }) => scored)),
      bitsPerByte: nats / Math.LN2 / sum(texts.map(({ bytes }) => bytes)),
    },
    gains: mapped(differences, (one) => one.nats),
    mixtureOver: otherThanMixture(byMethod(scores, (own) => difference(texts, scores.mixture, own).nats)),
    worst: mapped(differences, (one) => one.worst),
  };
}

/** Means over the sources of each kind; question prompts form a group of their own. */
function meansOf(cells: readonly Cell[]): Evaluation["means"] {
  const groups = Map.groupBy(cells, ({ source, prompt }) => `${source.kind} ${prompt}`);
  return [...groups.values()].map((own) => {
    const [{ source, prompt, scores }] = own;
    const over = (method: string, than: string): Estimate =>
      overDomains(
        own.map(({ texts, scores }) =>
          byDocument(
            texts,
            scores[method].map((nats, i) => nats - scores[than][i]),
          ),
        ),
      );
    return {
      ...{ kind: source.kind, prompt, sources: own.length },
      gains: byMethod(scores, (_, method) => over(method, "base")),
      mixtureOver: otherThanMixture(byMethod(scores, (_, method) => over("mixture", method))),
    };
  });
}

/** A value for each method but the base. */
function byMethod<T>(scores: Scores, of: (own: number[], method: string) => T): Record<string, T> {
  const methods = Object.keys(scores).filter((method) => method !== "base");
  return Object.fromEntries(methods.map((method) => [method, of(scores[method], method)]));
}

function otherThanMixture<T>({ mixture: _, ...others }: Record<string, T>): Record<string, T> {
  return others;
}

function mapped<T, R>(record: Record<string, T>, of: (value: T) => R): Record<string, R> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, of(value)]));
}
