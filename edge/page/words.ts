/** Turns the API's numbers into words. A gain in nats becomes a change of perplexity in per cent, called surprise. Pure. */

/** 0.22 → "22%"; below 10% with a decimal. */
export function percent(share: number): string {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "below 0.1%";
  return value < 10 && value !== Math.round(value) ? `${value.toFixed(1)}%` : `${value.toFixed(0)}%`;
}

/** 0.25 nats per token → "22% less surprised". */
export function surpriseChange(gainNats: number): string {
  const change = Math.exp(-gainNats) - 1;
  const rounded = Math.round(Math.abs(change) * 100);
  if (rounded === 0) return "as surprised";
  return change < 0 ? `${Math.min(rounded, 99)}% less surprised` : `${rounded}% more surprised`;
}

export function surpriseBeside(gainNats: number, other = "the base"): string {
  const change = surpriseChange(gainNats);
  return `${change} ${change.startsWith("as ") ? "as" : "than"} ${other}`;
}

/** For example "3.2 times likelier with the base". */
export function likelier(difference: number, one: string, other: string): string {
  const times = Math.exp(Math.abs(difference));
  if (times < 1.05) return `as likely as with ${other}`;
  const ratio = times < 9.95 ? times.toFixed(1) : Math.round(times).toLocaleString("en");
  return difference > 0 ? `${ratio} times likelier with ${one}` : `${ratio} times likelier with ${other}`;
}

export function probabilityText(logprob: number | null): string {
  return logprob === null ? "–" : percent(Math.exp(logprob));
}

export function count(number: number, noun: string): string {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

export function readableToken(token: string): string {
  if (token === "") return "nothing";
  if (/^\n+$/.test(token)) return token.length === 1 ? "line break" : `${token.length} line breaks`;
  if (/^ +$/.test(token)) return token.length === 1 ? "space" : `${token.length} spaces`;
  if (token.startsWith("bytes:")) return `part of a character (${token.slice("bytes:".length)})`;
  return token.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

/** Colour steps for how many times likelier a token is with the adapters. */
export type Step = "much-more" | "more" | "alike" | "less" | "much-less";

const mildTimes = 1.5;
const strongTimes = 5;

export function stepOf(difference: number): Step {
  const times = Math.exp(Math.abs(difference));
  if (times < mildTimes) return "alike";
  if (difference > 0) return times < strongTimes ? "more" : "much-more";
  return times < strongTimes ? "less" : "much-less";
}

export const legend: readonly (readonly [Step, string])[] = [
  ["much-more", `${strongTimes}× likelier or more`],
  ["more", `${mildTimes}× to ${strongTimes}×`],
  ["alike", "alike"],
  ["less", `${mildTimes}× to ${strongTimes}× less`],
  ["much-less", `${strongTimes}× less or more`],
];

/** Colour steps for how much of a token's probability came from the user's text. */
export type ShareStep = "none" | "some" | "much" | "most";

export function shareStepOf(share: number): ShareStep {
  if (share < 0.1) return "none";
  if (share < 0.3) return "some";
  return share < 0.6 ? "much" : "most";
}

export const shareLegend: readonly (readonly [ShareStep, string])[] = [
  ["most", "60% or more"],
  ["much", "30% to 60%"],
  ["some", "10% to 30%"],
  ["none", "less"],
];

/** 12_345 bytes → "12 kB". */
export function sizeText(bytes: number): string {
  if (bytes < 1000) return count(bytes, "byte");
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}
