/** From the scores of all methods to the figures, and to what holds of what is wanted. Pure. */
import { mixture, nearest } from "../../../gpu-backend/training/figures/serving.ts";
import {
  type Difference,
  difference,
  type Estimate,
  overSources,
  type ScoredText,
  type Worst,
  worstOf,
} from "../../../gpu-backend/training/figures/statistics.ts";
import { scoredTokens } from "../../../gpu-backend/training/figures/texts.ts";

export type Kind = "new" | "trained";

/** What one method scored on one source after prompts of one length. */
export interface Scored {
  kind: Kind;
  source: string;
  promptTokens: number;
  method: string;
  texts: readonly ScoredText[];
  /** Nats of the scored tokens of each text. */
  scores: readonly number[];
}

export interface Row extends Pick<Scored, "kind" | "source" | "promptTokens" | "method"> {
  overBase: Difference;
  /** How much better the mixture is; null for the mixture itself. */
  mixtureOver: Difference | null;
}

/** Over the sources of one kind, each counting once. */
export interface Mean extends Pick<Scored, "kind" | "promptTokens" | "method"> {
  sources: number;
  overBase: Estimate;
  bits: Estimate;
  mixtureOver: Estimate | null;
  /** Of the texts of all sources together. */
  worst: Worst;
  /** Sources on which the method beats the mixture by more than its interval. */
  aheadOfMixture: number;
}

export interface Check {
  what: string;
  wanted: string;
  found: string;
  holds: boolean;
}

/** A row for each that was scored but the base itself, which all are compared with. */
export function rowsOf(scored: readonly Scored[], base: string): Row[] {
  const find = (one: Scored, method: string) =>
    scored.find(
      (other) =>
        other.kind === one.kind &&
        other.source === one.source &&
        other.promptTokens === one.promptTokens &&
        other.method === method,
    );
  return scored.flatMap((one) => {
    if (one.method === base) return [];
    const { kind, source, promptTokens, method, texts, scores } = one;
    const mixed = method === mixture ? null : find(one, mixture);
    return [
      {
        ...{ kind, source, promptTokens, method },
        overBase: difference(texts, scores, find(one, base)!.scores),
        mixtureOver: mixed ? difference(texts, mixed.scores, scores) : null,
      },
    ];
  });
}

export function meansOf(rows: readonly Row[], scored: readonly Scored[], base: string): Mean[] {
  const groups = Map.groupBy(rows, ({ kind, promptTokens, method }) => `${kind} ${promptTokens} ${method}`);
  return [...groups.values()].map((own) => {
    const { kind, promptTokens, method } = own[0];
    const is = (one: Scored, wanted: string) =>
      one.kind === kind && one.promptTokens === promptTokens && one.method === wanted;
    const bases = scored.filter((one) => is(one, base));
    const gains = scored
      .filter((one) => is(one, method))
      .flatMap(({ source, scores }) => {
        const over = bases.find((one) => one.source === source)!.scores;
        return scores.map((nats, i) => (nats - over[i]) / scoredTokens);
      });
    const compared = own.flatMap(({ mixtureOver }) => (mixtureOver ? [mixtureOver.nats] : []));
    return {
      ...{ kind, promptTokens, method, sources: own.length },
      overBase: overSources(own.map(({ overBase }) => overBase.nats.mean)),
      bits: overSources(own.map(({ overBase }) => overBase.bits.mean)),
      mixtureOver: compared.length > 0 ? overSources(compared.map(({ mean }) => mean)) : null,
      worst: worstOf(gains),
      aheadOfMixture: compared.filter(({ ci95 }) => ci95[1] < 0).length,
    };
  });
}

/** What a mixture must reach, in nats a token. */
const wanted = { newText: -0.01, newMean: 0.08, worst: -0.1, domain: -0.02, known: -0.01 };
/** The domain that the base knows by heart. */
const knownByHeart = "austen";
const fullPrompt = 64;

export function checksOf(rows: readonly Row[], means: readonly Mean[]): Check[] {
  const checks: Check[] = [];
  const check = (what: string, isWanted: string, found: string, holds: boolean) =>
    checks.push({ what, wanted: isWanted, found, holds });
  const lengths = [...new Set(rows.map(({ promptTokens }) => promptTokens))].sort((a, b) => b - a);
  const ofMixture = rows.filter(({ method }) => method === mixture);
  for (const promptTokens of lengths) {
    const own = ofMixture.filter((row) => row.kind === "new" && row.promptTokens === promptTokens);
    const mean = means.find((one) => one.kind === "new" && one.promptTokens === promptTokens && one.method === mixture);
    if (!mean) continue;
    const after = `new text, ${promptTokens} prompt tokens`;
    // After a full prompt the whole interval has to be above the bound, after a shorter one the mean.
    const isFull = promptTokens === fullPrompt;
    const lowest = least(own, ({ overBase: { nats } }) => (isFull ? nats.ci95[0] : nats.mean));
    const bound = isFull ? "lowest interval of a source" : "lowest mean of a source";
    check(
      `${after}: ${bound}`,
      `> ${wanted.newText}`,
      `${signed(lowest.value)} (${lowest.row.source})`,
      lowest.value > wanted.newText,
    );
    if (isFull) {
      const { overBase } = mean;
      const holds = overBase.mean >= wanted.newMean && overBase.ci95[0] > 0;
      check(`${after}: mean over sources`, `≥ +${wanted.newMean}, above 0`, interval(overBase), holds);
    }
    const { worst } = mean;
    const ofSource = least(own, ({ overBase }) => overBase.worst.mean);
    const spared = (what: string, value: number, where = "") =>
      check(`${after}: ${what}`, `≥ ${wanted.worst}`, `${signed(value)}${where}`, value >= wanted.worst);
    spared("5% worst texts of all sources, their mean", worst.mean);
    spared("5% worst texts of all sources, the best of them", worst.boundary);
    spared("5% worst texts of a source, their mean, lowest", ofSource.value, ` (${ofSource.row.source})`);
  }
  for (const mean of means) {
    if (mean.kind !== "new" || !mean.mixtureOver) continue;
    const { ci95, mean: nats } = mean.mixtureOver;
    const what = `new text, ${mean.promptTokens} prompt tokens: mixture over ${mean.method}`;
    check(what, "above 0", interval({ mean: nats, ci95 }), ci95[0] > 0);
  }
  for (const promptTokens of lengths) {
    const own = rows.filter(
      (row) => row.kind === "trained" && row.promptTokens === promptTokens && row.method === nearest,
    );
    if (own.length === 0) continue;
    const after = `trained domains, ${promptTokens} prompt tokens`;
    const mean = means.find(
      (one) => one.kind === "trained" && one.promptTokens === promptTokens && one.method === nearest,
    )!.mixtureOver!;
    check(`${after}: mixture over nearest, mean`, "≥ 0", interval(mean), mean.mean >= 0);
    const lowest = least(own, ({ mixtureOver }) => mixtureOver!.nats.mean);
    check(
      `${after}: mixture over nearest, lowest`,
      `≥ ${wanted.domain}`,
      `${signed(lowest.value)} (${lowest.row.source})`,
      lowest.value >= wanted.domain,
    );
    const austen = ofMixture.find(
      (row) => row.kind === "trained" && row.promptTokens === promptTokens && row.source === knownByHeart,
    );
    if (austen) {
      const { nats } = austen.overBase;
      check(`${after}: ${knownByHeart} over the base`, `≥ ${wanted.known}`, interval(nats), nats.mean >= wanted.known);
    }
  }
  return checks;
}

function least(rows: readonly Row[], measure: (row: Row) => number): { row: Row; value: number } {
  return rows
    .map((row) => ({ row, value: measure(row) }))
    .reduce((lowest, one) => (one.value < lowest.value ? one : lowest));
}

export function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
}

export function interval({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}
