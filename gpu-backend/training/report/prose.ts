/** What the report says in words: every number in it is computed from the result. */
import { isDeepStrictEqual } from "node:util";
import type { EvaluationResult } from "../evaluation/result.ts";
import { gainText, perplexityOn } from "./tables.ts";

const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
const signedPercent = (share: number) => `${share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;

/** What a reader must know before the numbers; empty for a run of full length. */
export function warnings({ options }: EvaluationResult): string[] {
  if (options.quick !== true) return [];
  return ["A quick run (--quick): little text and few steps, to see that all works. Its numbers are no result."];
}

/** Whether the centroid with most text is the one that gains most: then two controls are one. */
export function isOneControl({ controls }: EvaluationResult): boolean {
  return isDeepStrictEqual(controls?.withoutBestCluster, controls?.withoutLargestCluster);
}

/** The claims, one a line, as the numbers bear them out or not. */
export function findings(result: EvaluationResult): string[] {
  const { summary, overStatic, controls, options } = result;
  const base = summary.base;
  const bank = summary["gated-bank"];
  const shipped = summary["gated-bank-shipped"];
  if (!base || !bank || !shipped || !overStatic || !controls) return [];
  const change = (of: number, from: number) => signedPercent(of / from - 1);
  /** Only of domains that there are. */
  const onDomains = (which: string, from: number | null, of: number | null, asShipped: number | null) => {
    if (from === null || asShipped === null) return [];
    const strength = of === null ? "" : `${change(of, from)}; `;
    return [`${which}: ${strength}as shipped ${change(asShipped, from)}.`];
  };
  const worst = worstKnown(result);
  const seeds = (options.seeds as number[]).length;
  const { wrongCentroid, constantInput, withoutBestCluster, withoutLargestCluster } = controls;
  return [
    `Gated bank over the base: perplexity ${base.ppl.toFixed(2)} → ${bank.ppl.toFixed(2)} (${change(bank.ppl, base.ppl)}); as shipped ${shipped.ppl.toFixed(2)} (${change(shipped.ppl, base.ppl)}).`,
    ...onDomains("On domains that the base never saw", base.pplNew, bank.pplNew, shipped.pplNew),
    ...onDomains("On the base's own domains", base.pplKnown, bank.pplKnown, shipped.pplKnown),
    ...onDomains("On domains that no adapter was trained on", base.pplUnseen, null, shipped.pplUnseen),
    ...(worst
      ? [`Of the base's own domains ${worst.domain} fares worst as shipped: ${change(worst.shipped, worst.base)}.`]
      : []),
    `Gated bank over a static LoRA of equal size: ${gainText(overStatic)} nats a token (perplexity ${signedPercent(Math.exp(-overStatic.nats) - 1)})${overStatic.ci95[0] > 0 ? "" : "; the interval does not exclude zero"}.`,
    `The adapter of another centroid, drawn anew for each window, keeps ${percent(wrongCentroid.kept)} of the gain over the base.`,
    `A hyper-network that is told nothing of the text, over static LoRA: ${gainText(constantInput.overStatic)} nats.`,
    isOneControl(result)
      ? `Without the centroid with most text, which also gains most, the bank gains ${gainText(withoutLargestCluster.overStatic)} over static LoRA.`
      : `Without the centroid with most text, the bank gains ${gainText(withoutLargestCluster.overStatic)} over static LoRA; without the one that gains most, ${gainText(withoutBestCluster.overStatic)}.`,
    `${seeds === 1 ? "One training seed" : `${seeds} training seeds`}, one split of documents; intervals are 95%, from a bootstrap over documents.`,
  ];
}

/** The base's own domain that the shipped bank serves worst beside the base; perplexities. */
function worstKnown(result: EvaluationResult) {
  return result.domains
    .filter(({ known, unseen }) => known && !unseen)
    .map(({ name: domain }) => ({
      domain,
      base: perplexityOn(result, domain, "base"),
      shipped: perplexityOn(result, domain, "gated-bank-shipped"),
    }))
    .sort((a, b) => b.shipped / b.base - a.shipped / a.base)
    .at(0);
}

/** Why the two measures disagree. */
export function whyTheyDisagree({ paper, summary }: EvaluationResult): string[] {
  if (!paper) return [];
  const [unadapted, lora, network, biased] = paper.rows;
  const explained = (unadapted.paperLoss - biased.paperLoss) / (unadapted.paperLoss - lora.paperLoss);
  const ordered = unadapted.paperLoss > lora.paperLoss && lora.paperLoss > network.paperLoss;
  const paragraphs = [
    `The published code pads each line to 256 tokens and scores one position of it, the last, against the token at that very position. Of the ${paper.lines} lines scored here ${percent(paper.paddedShare)} end in padding, so the question put to a model is mostly whether it says “padding” where there is padding. A base that was never trained on padding says it seldom, and its loss is enormous; an adapter learns it in a few steps. Adding ${paper.padBias} to the padding's logit, one number and no learning about language, brings ${percent(explained)} of what LoRA gains by this measure.`,
    `The network is ${network.paperLoss < lora.paperLoss ? "ahead of" : "not ahead of"} LoRA there for another reason: clusters and batch means are computed from the very lines that are scored, padding included, so the input of the network tells whether a batch consists of padded lines. ${ordered ? "The order of the published table comes out." : "The order of the published table does not come out in full in this run."}`,
    `The honest measure asks for the next token, at every position after the first 64, of documents that training never saw, and lets the adapter know those 64 tokens alone. By it the same adapters go from ${unadapted.honestLoss.toFixed(3)} nats for the base to ${lora.honestLoss.toFixed(3)} (LoRA) and ${network.honestLoss.toFixed(3)} (network).`,
  ];
  const { static: fixed, paper: recipe, "paper-centroid": centroid, "gated-bank": bank } = summary;
  if (fixed && recipe && centroid && bank) {
    paragraphs.push(
      `Trained honestly, the published recipe reaches perplexity ${recipe.ppl.toFixed(2)}, its network with the centroid for input, a zero start and no dropout ${centroid.ppl.toFixed(2)}; a static LoRA of the bank's size ${fixed.ppl.toFixed(2)}, the gated bank ${bank.ppl.toFixed(2)}.`,
    );
  }
  return paragraphs;
}
