/** Reads answers of the app, and asserts its errors. */

import { expect } from "vitest";
import type { ErrorEnvelope } from "../../shared/errors.ts";

export type MaybePromise<T> = T | Promise<T>;

export async function jsonOf<T = unknown>(answer: MaybePromise<Response>, status = 200): Promise<T> {
  const response = await answer;
  const text = await response.text();
  expect(response.status, text).toBe(status);
  return JSON.parse(text);
}

export async function errorOf(answer: MaybePromise<Response>) {
  const response = await answer;
  const { error } = await response.json<ErrorEnvelope>();
  return { ...error, status: response.status, retryAfter: response.headers.get("retry-after") };
}

interface ExpectedError extends Partial<Omit<Awaited<ReturnType<typeof errorOf>>, "type">> {
  type?: string;
  mentions?: string | RegExp | readonly (string | RegExp)[];
}

export async function expectError(answer: MaybePromise<Response>, { mentions = [], ...fields }: ExpectedError) {
  const error = await errorOf(answer);
  expect(error, error.message).toMatchObject(fields);
  for (const part of [mentions].flat()) expect(error.message).toMatch(part);
}

export async function eventsOf<T = unknown>(answer: MaybePromise<Response>): Promise<T[]> {
  const events = (await (await answer).text()).split("\n\n");
  const data = events.filter((event) => event.startsWith("data: ")).map((event) => event.slice("data: ".length));
  return data.map((text) => (text === "[DONE]" ? text : JSON.parse(text)));
}

/** Events with data as text, without timings, which differ between runs. */
export function untimedEvents(text: string): string[] {
  const events = text.replaceAll(/"timings":\{[^}]*\}/g, '"timings":{}').split("\n\n");
  return events.filter((event) => event.startsWith("data: "));
}

/** Groups events by choice, because choices may come in any order. */
export const byChoice = (events: string[]) => Map.groupBy(events, (event) => /"index":(\d+)/.exec(event)?.[1]);
