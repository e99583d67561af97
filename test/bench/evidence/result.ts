/** From the scores of all methods to the figures, and to what holds of what is wanted. Pure. */
import { mixture, nearest } from "../../../gpu-backend/training/figures/serving.ts";
import {
  byDocument,
  type Difference,
  difference,
  type Estimate,
  overDomains,
  type ScoredText,
  type Worst,
  worstOf,
} from "../../../gpu-backend/training/figures/statistics.ts";

export type Kind = "new" | "trained";
/** What means are over: the sources of one kind, or those of both. */
export type Group = Kind | "all";

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

/** Over the sources of a group, each counting once; intervals resample sources, and documents of each. */
export interface Mean extends Pick<Scored, "promptTokens" | "method"> {
  group: Group;
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
  return scored.flatMap((one) => {
    if (one.method === base) return [];
    const { kind, source, promptTokens, method, texts, scores } = one;
    const mixed = method === mixture ? null : scoresBy(mixture, one, scored);
    return [
      {
        ...{ kind, source, promptTokens, method },
        overBase: difference(texts, scores, scoresBy(base, one, scored)!),
        mixtureOver: mixed && difference(texts, mixed, scores),
      },
    ];
  });
}

/** What another method scored on the same texts; null where it was not measured. */
function scoresBy(method: string, one: Scored, scored: readonly Scored[]): readonly number[] | null {
  const other = scored.find(
    (other) =>
      other.kind === one.kind &&
      other.source === one.source &&
      other.promptTokens === one.promptTokens &&
      other.method === method,
  );
  return other?.scores ?? null;
}

/** Of each method at each length: over each kind that it was measured on, and over all sources where it was on both. */
export function meansOf(rows: readonly Row[], scored: readonly Scored[], base: string): Mean[] {
  const methods = Map.groupBy(
    scored.filter(({ method }) => method !== base),
    ({ promptTokens, method }) => `${promptTokens} ${method}`,
  );
  return [...methods.values()].flatMap((all) => {
    const kinds = Map.groupBy(all, ({ kind }) => kind);
    const groups: [Group, Scored[]][] = [...kinds];
    if (kinds.size > 1) groups.push(["all", all]);
    return groups.map(([group, own]) => meanOf(group, own, rows, scored, base));
  });
}

/** `own`: one method after prompts of one length, on each source of the group. */
function meanOf(
  group: Group,
  own: readonly Scored[],
  rows: readonly Row[],
  scored: readonly Scored[],
  base: string,
): Mean {
  const [{ promptTokens, method }] = own;
  /** Nats of each text that `gainOf` finds, by document of each source, a token or a byte. */
  const over = (gainOf: (one: Scored) => number[], unit?: "bytes") =>
    overDomains(own.map((one) => byDocument(one.texts, gainOf(one), unit)));
  const gained = (one: Scored) => minus(one.scores, scoresBy(base, one, scored)!);
  const isCompared = method !== mixture && own.every((one) => scoresBy(mixture, one, scored));
  const ownRows = rows.filter(
    (row) => (group === "all" || row.kind === group) && row.promptTokens === promptTokens && row.method === method,
  );
  return {
    ...{ group, promptTokens, method, sources: own.length },
    overBase: over(gained),
    bits: over((one) => gained(one).map((nats) => nats / Math.LN2), "bytes"),
    mixtureOver: isCompared ? over((one) => minus(scoresBy(mixture, one, scored)!, one.scores)) : null,
    worst: worstOf(own.flatMap((one) => gained(one).map((nats, i) => nats / one.texts[i].scored))),
    aheadOfMixture: ownRows.filter(({ mixtureOver }) => mixtureOver && mixtureOver.nats.ci95[1] < 0).length,
  };
}

function minus(scores: readonly number[], others: readonly number[]): number[] {
  return scores.map((nats, i) => nats - others[i]);
}

export const groupNames: Record<Group, string> = { new: "new text", trained: "trained domains", all: "all sources" };

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
    const mean = means.find(
      (one) => one.group === "new" && one.promptTokens === promptTokens && one.method === mixture,
    );
    if (!mean) continue;
    const after = `${groupNames.new}, ${promptTokens} prompt tokens`;
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
    if (mean.group === "trained" || !mean.mixtureOver) continue;
    const what = `${groupNames[mean.group]}, ${mean.promptTokens} prompt tokens: mixture over ${mean.method}`;
    check(what, "above 0", interval(mean.mixtureOver), mean.mixtureOver.ci95[0] > 0);
  }
  for (const promptTokens of lengths) {
    const own = rows.filter(
      (row) => row.kind === "trained" && row.promptTokens === promptTokens && row.method === nearest,
    );
    if (own.length === 0) continue;
    const after = `${groupNames.trained}, ${promptTokens} prompt tokens`;
    const mean = means.find(
      (one) => one.group === "trained" && one.promptTokens === promptTokens && one.method === nearest,
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
