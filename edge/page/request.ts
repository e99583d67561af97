import { limits } from "../../shared/contracts/limits.ts";
import { CallFailure } from "./api.ts";

interface SamplingField {
  name: string;
  label: string;
  hint: string;
  /** Range of a number; absent for `stop`, which takes texts. */
  range?: { min: number; max: number; isWhole?: boolean };
  initial?: string;
}

const largest = 2 ** 31 - 1;
const whole = (min: number, max: number) => ({ min, max, isWhole: true });
const share = { min: 0, max: 1 };
const heat = { min: 0, max: limits.temperature };
const penalty = { min: -limits.penaltyMagnitude, max: limits.penaltyMagnitude };
const stops = `Up to ${limits.stopStrings} texts, one a line; \\n is a line break`;

/** A blank field is left out of the request, so the API's default holds. */
export const samplingFields: readonly SamplingField[] = [
  { name: "max_tokens", label: "Tokens", hint: "Most tokens to write", range: whole(1, 4096), initial: "40" },
  { name: "temperature", label: "Temperature", hint: "0 takes the likeliest token", range: heat, initial: "0.7" },
  { name: "seed", label: "Seed", hint: "Both sides draw with it", range: whole(0, largest), initial: "4" },
  { name: "top_p", label: "Top p", hint: "Only tokens that make up this share", range: share, initial: "0.9" },
  { name: "top_k", label: "Top k", hint: "Only so many likeliest; 0 is all", range: whole(-1, largest) },
  { name: "min_p", label: "Min p", hint: "Least share of the likeliest's probability", range: share },
  { name: "frequency_penalty", label: "Frequency penalty", hint: "For each repetition", range: penalty },
  { name: "presence_penalty", label: "Presence penalty", hint: "Once for a repetition", range: penalty },
  { name: "stop", label: "Stop at", hint: stops },
];

export type FieldTexts = Readonly<Record<string, string>>;
const initialEntries = samplingFields.map(({ name, initial = "" }) => [name, initial]);
export const initialTexts: FieldTexts = Object.fromEntries(initialEntries);

export type Sampling = Record<string, unknown>;

export function samplingOf(texts: FieldTexts): Sampling {
  const sampling: Sampling = {};
  for (const { name, label, range } of samplingFields) {
    const text = (texts[name] ?? "").trim();
    if (text !== "") sampling[name] = range ? numberOf(text, label, range) : stopsOf(texts[name]);
  }
  return sampling;
}

function numberOf(text: string, label: string, { min, max, isWhole }: NonNullable<SamplingField["range"]>): number {
  const value = Number(text);
  if (value >= min && value <= max && (!isWhole || Number.isInteger(value))) return value;
  throw new CallFailure(`${label} is “${text}”; it must be a ${isWhole ? "whole " : ""}number from ${min} to ${max}.`);
}

function stopsOf(text: string): string[] {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.replaceAll("\\n", "\n"));
}

/** `adapter`: `auto`, `nearest`, `off` or an id. The prompt's first `evidenceTokens` tokens weigh the experts; null: all tokens. */
export function wishOf(adapter: string, evidenceTokens: number | null, more: object = { compare: true }) {
  return { chameleon: { adapter, ...more, ...(evidenceTokens && { evidence_tokens: evidenceTokens }) } };
}

export const localKey = "sk-chameleon-local";

/** Security: the command reads a secret key from the environment. */
export function curlCommand({ url, key, body }: { url: string; key: string; body: object }): string {
  const header =
    key === localKey ? `'authorization: Bearer ${localKey}'` : `"authorization: Bearer $CHAMELEON_API_KEY"`;
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -s ${url} \\\n  -H ${header} \\\n  -H 'content-type: application/json' \\\n  -d '${json}'`;
}
