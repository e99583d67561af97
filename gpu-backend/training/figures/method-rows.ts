/** From the losses of test windows to the table of methods: perplexities, gains with their intervals, domains. Pure. */
import { bankMethod, staticMethod, type Variant } from "../evaluation/methods.ts";
import type { Compared } from "./compare.ts";
import type { Figures, MethodDomain, MethodRow } from "./data.ts";
import { byDocument, difference, type Estimate, overDomains, type ScoredText } from "./statistics.ts";

/** A test window, as far as statistics go; `scored` are its tokens. */
export interface ScoredWindow extends ScoredText {
  domain: number;
}

export interface ComparedDomain {
  name: string;
  known: boolean;
}

export const shippedName = "shipped bank, nearest";

/** Losses by method: one list of test windows' sums for each seed. */
interface Line {
  method: string;
  trainable: number;
  chosen: string;
  seeds: number[][];
}

export function methodFigures(
  compared: Compared,
  windows: readonly ScoredWindow[],
  domains: readonly ComparedDomain[],
): Figures["methods"] {
  const lines = linesOf(compared);
  const { base, shipped } = compared;
  const mean = (line: Line) =>
    windows.map((_, i) => line.seeds.reduce((sum, one) => sum + one[i], 0) / line.seeds.length);
  const nats = (losses: readonly number[]) => perToken(losses, windows);
  const bytes = windows.reduce((sum, window) => sum + window.bytes, 0);
  const rows = lines.map((line): MethodRow => {
    const losses = mean(line);
    const isShipped = line.method === shippedName;
    return {
      ...{ method: line.method, trainable: line.trainable, chosen: line.chosen },
      perplexityBySeed: line.seeds.map((one) => Math.exp(nats(one))),
      perplexity: Math.exp(nats(losses)),
      bitsPerByte: losses.reduce((sum, one) => sum + one, 0) / Math.LN2 / bytes,
      overBase: line.method === "base" ? null : byDomains(windows, domains, base, losses),
      bankOver: isShipped ? null : byDomains(windows, domains, losses, shipped),
      bankOverPooled: isShipped ? null : gain(windows, losses, shipped),
    };
  });
  const retrained = compared.trained.find(({ method }) => method.name === bankMethod)!;
  const own = retrained.outcomes[0];
  const gained = (losses: readonly number[]) => nats(base) - nats(losses);
  return {
    rows,
    domains: domainsOf(
      windows,
      domains,
      compared,
      lines.map((line) => ({ method: line.method, losses: mean(line) })),
    ),
    wrongCentroidKeeps: gained(own.wrongCentroid!) / gained(own.losses!),
  };
}

function linesOf({ base, shipped, trained }: Compared): Line[] {
  const bank = trained.find(({ method }) => method.name === bankMethod)!;
  const of = ({ method, variant, outcomes }: Compared["trained"][number]): Line => ({
    ...{ method: method.name, trainable: method.kind.trainable },
    chosen: method.rounds.length > 0 ? variantText(variant) : "",
    seeds: outcomes.map(({ losses }) => losses!),
  });
  return [
    { method: "base", trainable: 0, chosen: "", seeds: [base] },
    { method: shippedName, trainable: bank.method.kind.trainable, chosen: "scale by centroid", seeds: [shipped] },
    ...trained.flatMap((one) => {
      if (one.method.name !== staticMethod) return [of(one)];
      const scaled = one.outcomes.map(({ scaledByDomain }) => scaledByDomain!);
      return [
        of(one),
        { ...of(one), method: "static head, scale by domain", chosen: "scale by domain", seeds: scaled },
      ];
    }),
  ];
}

function variantText({ learningRate, steps, weightDecay, draws }: Variant): string {
  const parts = [`rate ${learningRate}`, `${steps} steps`];
  if (weightDecay) parts.push(`decay ${weightDecay}`);
  if (draws === "windows") parts.push("own draws");
  return parts.join(", ");
}

function domainsOf(
  windows: readonly ScoredWindow[],
  domains: readonly ComparedDomain[],
  { base, shipped }: Compared,
  methods: readonly { method: string; losses: number[] }[],
): MethodDomain[] {
  const statics = methods.find(({ method }) => method === staticMethod)!.losses;
  return domains.flatMap(({ name, known }, domain) => {
    const indexes = [...windows.keys()].filter((i) => windows[i].domain === domain);
    if (indexes.length === 0) return [];
    const own = indexes.map((i) => windows[i]);
    const of = (losses: readonly number[]) => indexes.map((i) => losses[i]);
    return [
      {
        ...{ name, known },
        testDocuments: new Set(own.map(({ document }) => document)).size,
        tokens: own.reduce((sum, { scored }) => sum + scored, 0),
        perplexity: Object.fromEntries(
          methods.map(({ method, losses }) => [method, Math.exp(perToken(of(losses), own))]),
        ),
        bankOverBase: gain(own, of(base), of(shipped)),
        bankOverStatic: gain(own, of(statics), of(shipped)),
      },
    ];
  });
}

/** Of one method over another in nats a token, interval over documents. */
function gain(windows: readonly ScoredWindow[], over: readonly number[], of: readonly number[]): Estimate {
  return difference(
    windows,
    of.map((nats) => -nats),
    over.map((nats) => -nats),
  ).nats;
}

/** The same as a mean of the domains, interval over domains and documents. */
function byDomains(
  windows: readonly ScoredWindow[],
  domains: readonly ComparedDomain[],
  over: readonly number[],
  of: readonly number[],
): Estimate {
  const groups = domains.map((_, domain) => [...windows.keys()].filter((i) => windows[i].domain === domain));
  return overDomains(
    groups
      .filter((indexes) => indexes.length > 0)
      .map((indexes) =>
        byDocument(
          indexes.map((i) => windows[i]),
          indexes.map((i) => over[i] - of[i]),
        ),
      ),
  );
}

function perToken(losses: readonly number[], windows: readonly ScoredWindow[]): number {
  return losses.reduce((sum, nats) => sum + nats, 0) / windows.reduce((sum, { scored }) => sum + scored, 0);
}
