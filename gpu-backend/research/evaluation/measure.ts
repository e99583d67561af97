/** Scores sources after prompts of several lengths and compares the methods on the same tokens. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, writeWhole } from "../../files.ts";
import { keyOf } from "../../training/prepare.ts";
import type { Progress } from "../../training/progress.ts";
import {
  type Comparison,
  comparisons,
  type Evaluation,
  type EvaluationMean,
  type EvaluationRow,
  type TokenClass,
  tokenClasses,
} from "./data.ts";
import type { Scores } from "./scores.ts";
import type { Source } from "./sources.ts";
import {
  averageOf,
  baseLossOf,
  documentsOf,
  gainOf,
  gainsOf,
  hasInk,
  overSources,
  type Pieces,
  type TokenTest,
  worstOf,
} from "./statistics.ts";
import { promptLengths, scoredTokens, type Text } from "./texts.ts";

/** Scores texts after prompts of so many tokens. */
type Score = (texts: readonly Text[], promptTokens: number) => Promise<Scores>;

export interface MeasureOptions {
  tokenizer: Pieces;
  /** What scores depend on besides the texts. */
  cacheKey: string;
  /** Where finished parts are kept. */
  cacheDirectory: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** Texts of one source after prompts of one length, with their scores. */
interface Cell {
  source: Source;
  prompt: number;
  scores: Scores;
}

/** Throws the signal's reason when aborted; finished cells stay in the cache. */
export async function measureSources(
  sources: readonly Source[],
  score: Score,
  options: MeasureOptions,
): Promise<Pick<Evaluation, "rows" | "means">> {
  const { progress, signal, tokenizer } = options;
  const cells: Cell[] = [];
  progress.stage("texts", sources.length * promptLengths.length);
  for (const source of sources) {
    for (const prompt of promptLengths) {
      signal?.throwIfAborted();
      cells.push({ source, prompt, scores: await cachedScores(source, prompt, score, options) });
      progress.advance(cells.length, `${source.name}, ${prompt}`);
    }
  }
  return { rows: cells.map((cell) => rowOf(cell, tokenizer)), means: meansOf(cells, tokenizer) };
}

async function cachedScores(
  { texts }: Source,
  prompt: number,
  score: Score,
  { cacheKey, cacheDirectory }: MeasureOptions,
): Promise<Scores> {
  const path = join(cacheDirectory, `scores-${keyOf(cacheKey, prompt, texts)}.json`);
  const cached = await readFile(path, "utf8").catch(nullIfMissing);
  if (cached !== null) return JSON.parse(cached) as Scores;
  const scores = await score(texts, prompt);
  await writeWhole(
    path,
    JSON.stringify(scores, (_, value) => (value instanceof Float32Array ? [...value] : value)),
  );
  return scores;
}

function classTests(prompt: number, tokenizer: Pieces): Record<TokenClass, TokenTest> {
  const isInPrompt: TokenTest = (ids, at) => {
    const end = ids.length - scoredTokens;
    return ids.slice(end - prompt, end).includes(ids[at]);
  };
  return {
    "no white space": hasInk(tokenizer),
    "in the prompt": isInPrompt,
    "not in the prompt": (...token) => !isInPrompt(...token),
  };
}

function rowOf({ source: { kind, name, texts }, prompt, scores }: Cell, tokenizer: Pieces): EvaluationRow {
  return {
    ...{ kind, name, prompt, documents: documentsOf(texts), texts: texts.length },
    base: baseLossOf(texts, scores.base, tokenizer),
    gains: byComparison((of) => gainOf(gainsOf(texts, scores, of))),
    worst: byComparison((of) => worstOf(gainsOf(texts, scores, of))),
  };
}

/** Means over the sources of each kind. */
function meansOf(cells: readonly Cell[], tokenizer: Pieces): EvaluationMean[] {
  const groups = Map.groupBy(cells, ({ source, prompt }) => `${source.kind} ${prompt}`);
  return [...groups.values()].map((own): EvaluationMean => {
    const [{ source, prompt }] = own;
    const tests = classTests(prompt, tokenizer);
    const gains = (of: Comparison, isCounted?: TokenTest) =>
      own.map(({ source: { texts }, scores }) => gainsOf(texts, scores, of, isCounted));
    const present = tokenClasses.filter((name) => overSources(gains("mixture", tests[name])) !== null);
    const bases = own.map(({ source: { texts }, scores }) => baseLossOf(texts, scores.base, tokenizer));
    return {
      ...{ kind: source.kind, prompt, sources: own.length },
      base: {
        nats: averageOf(bases.map(({ nats }) => nats)),
        bitsPerByte: averageOf(bases.map(({ bitsPerByte }) => bitsPerByte)),
      },
      gains: byComparison((of) => overSources(gains(of))!),
      parts: record(present, (name) => byComparison((of) => overSources(gains(of, tests[name]))!)),
      worst: byComparison((of) => averageOf(gains(of).map(worstOf))),
    };
  });
}

function byComparison<T>(of: (comparison: Comparison) => T): Record<Comparison, T> {
  return record(comparisons, of);
}

function record<K extends string, T>(keys: readonly K[], of: (key: K) => T): Record<K, T> {
  return Object.fromEntries(keys.map((key) => [key, of(key)])) as Record<K, T>;
}
