/**
 * How the fields of public requests are read, where several requests have them. A field that is null counts as absent, as
 * with OpenAI. Messages name the limit and the value.
 */
import { z } from "zod";
import { limits } from "./limits.ts";

/** A prompt as it came: text still to be encoded, or token ids. */
export type Prompt = string | number[];

/** null and absent alike become `fallback`. */
export function absentAs<T extends z.ZodType, F>(schema: T, fallback: F) {
  return schema.nullish().transform((value) => (value ?? fallback) as NonNullable<z.output<T>> | F);
}

/** A string, strings, token ids or lists of them, as a list of prompts. */
export function readPromptList(value: unknown, context: z.RefinementCtx, name: string, maximum: number): Prompt[] {
  const refuse = (message: string): Prompt[] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (typeof value !== "string" && !Array.isArray(value)) {
    return refuse(
      `${name} is ${kindOf(value)}; it must be a string, a list of strings, token ids or lists of token ids`,
    );
  }
  const prompts: unknown[] = typeof value === "string" || typeof value[0] === "number" ? [value] : value;
  if (prompts.length === 0) return refuse(`${name} is an empty list; at least one is needed`);
  if (prompts.length > maximum) return refuse(`${name} has ${prompts.length} entries, the maximum is ${maximum}`);
  const kind = typeof prompts[0];
  for (const [i, prompt] of prompts.entries()) {
    const at = prompts.length > 1 ? `${name}[${i}]` : name;
    if (typeof prompt !== kind)
      return refuse(`${at} is ${kindOf(prompt)}, ${name}[0] is ${kindOf(prompts[0])}; all must be alike`);
    if (typeof prompt !== "string" && !Array.isArray(prompt)) return refuse(`${at} is ${kindOf(prompt)}`);
    if (prompt.length === 0) return refuse(`${at} is empty; at least one token is needed`);
    if (typeof prompt === "string") continue;
    const bad = prompt.findIndex((id) => !Number.isSafeInteger(id) || id < 0);
    if (bad >= 0) return refuse(`${at}[${bad}] is ${describe(prompt[bad])}; a token id is an integer from 0`);
  }
  return prompts as Prompt[];
}

export function readStop(value: unknown, context: z.RefinementCtx): string[] {
  const refuse = (message: string): string[] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (value === undefined || value === null) return [];
  const stops: unknown[] = Array.isArray(value) ? value : [value];
  if (stops.length > limits.stopStrings) {
    return refuse(`stop has ${stops.length} strings, the maximum is ${limits.stopStrings}`);
  }
  for (const stop of stops) {
    if (typeof stop !== "string") return refuse(`stop holds ${kindOf(stop)}; it must be a string or a list of strings`);
    if (stop.length === 0 || stop.length > limits.stopCharacters) {
      return refuse(`a stop string has ${stop.length} characters; it must have 1 to ${limits.stopCharacters}`);
    }
  }
  return stops as string[];
}

export function readLogitBias(bias: Record<string, number>, context: z.RefinementCtx): [number, number][] {
  const entries = Object.entries(bias);
  const refuse = (message: string): [number, number][] => {
    context.addIssue({ code: "custom", message, input: bias });
    return z.NEVER;
  };
  if (entries.length > limits.logitBiasEntries) {
    return refuse(`logit_bias has ${entries.length} entries, the maximum is ${limits.logitBiasEntries}`);
  }
  const magnitude = limits.logitBiasMagnitude;
  for (const [key, value] of entries) {
    if (!/^(0|[1-9]\d{0,8})$/.test(key)) return refuse(`logit_bias has the key ${describe(key)}; keys are token ids`);
    if (Math.abs(value) > magnitude) {
      return refuse(`logit_bias of token ${key} is ${value}; it must be between ${-magnitude} and ${magnitude}`);
    }
  }
  return entries.map(([key, value]) => [Number(key), value]);
}

export function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (value === null || value === undefined) return "null";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** A value as a message shows it: short, whatever a client sent. */
export function describe(value: unknown): string {
  return typeof value === "number"
    ? String(value)
    : typeof value === "string"
      ? JSON.stringify(value.slice(0, 40))
      : kindOf(value);
}
