/** From the page's fields to requests. Pure: the fields' texts in, what the API takes out. */
import { limits } from "../../shared/contracts/limits.ts";
import { CallFailure } from "./api.ts";

interface SamplingField {
  name: string;
  label: string;
  hint: string;
  /** Of a number. */
  range?: { min: number; max: number; isWhole?: boolean };
  initial?: string;
}

const largest = 2 ** 31 - 1;
const whole = (min: number, max: number) => ({ min, max, isWhole: true });
const share = { min: 0, max: 1 };
const heat = { min: 0, max: limits.temperature };
const penalty = { min: -limits.penaltyMagnitude, max: limits.penaltyMagnitude };
const choices = whole(1, limits.choicesPerPrompt);
const stops = `Up to ${limits.stopStrings} texts, one a line; \\n is a line break`;
const evidence = "Only so many first tokens of the prompt weigh what answers";

/** Everything that the API takes beside prompt and model. A blank field is left out, so the API's own default holds. */
export const samplingFields: readonly SamplingField[] = [
  { name: "max_tokens", label: "Tokens", hint: "Most tokens to write", range: whole(1, 4096), initial: "40" },
  { name: "temperature", label: "Temperature", hint: "0 takes the likeliest token", range: heat, initial: "0.7" },
  { name: "seed", label: "Seed", hint: "Both sides draw with it", range: whole(0, largest), initial: "4" },
  { name: "top_p", label: "Top p", hint: "Only tokens that make up this share", range: share, initial: "0.9" },
  { name: "top_k", label: "Top k", hint: "Only so many likeliest; 0 is all", range: whole(-1, largest) },
  { name: "min_p", label: "Min p", hint: "Least share of the likeliest's probability", range: share },
  { name: "frequency_penalty", label: "Frequency penalty", hint: "For each repetition", range: penalty },
  { name: "presence_penalty", label: "Presence penalty", hint: "Once for a repetition", range: penalty },
  { name: "n", label: "Choices", hint: "Answers on each side", range: choices },
  { name: "evidence_tokens", label: "Evidence tokens", hint: evidence, range: whole(1, 1_000_000) },
  { name: "stop", label: "Stop at", hint: stops },
  { name: "logit_bias", label: "Logit bias", hint: 'Token id → −100 to 100, as {"11": -5}' },
];

export type FieldTexts = Readonly<Record<string, string>>;
export const initialTexts: FieldTexts = Object.fromEntries(
  samplingFields.map(({ name, initial }) => [name, initial ?? ""]),
);

export interface Sampling {
  fields: Record<string, unknown>;
  evidenceTokens: number | null;
}

/** Throws CallFailure that names the field and its value. */
export function samplingOf(texts: FieldTexts): Sampling {
  const fields: Record<string, unknown> = {};
  for (const { name, label, range } of samplingFields) {
    const text = (texts[name] ?? "").trim();
    if (text === "") continue;
    if (range) fields[name] = numberOf(text, label, range);
    else fields[name] = name === "stop" ? stopsOf(texts[name]) : biasOf(text, label);
  }
  const { evidence_tokens: evidenceTokens = null, ...others } = fields;
  return { fields: others, evidenceTokens: evidenceTokens as number | null };
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

function biasOf(text: string, label: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new CallFailure(`${label} is “${text.slice(0, 60)}”; it must be JSON, as {"11": -5}.`);
  }
}

/** The request's fields that say who answers: `auto`, `nearest`, `off`, or the id of a centroid or an own adapter. */
export function wishOf(adapter: string, evidenceTokens: number | null, more: object = { compare: true }) {
  return { chameleon: { adapter, ...more, ...(evidenceTokens && { evidence_tokens: evidenceTokens }) } };
}
