/**
 * kill -9 of a self-hosted edge under streams and writes, again and again. Everything that a tenant was promised before a kill is
 * there after it, and each answer that ended is charged exactly once. A third of the callers use the client library, which resumes
 * a stream that was cut off; the others' streams end in an error.
 */
import assert from "node:assert/strict";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { resumableFetch } from "../../edge/client/resumable.ts";
import { readLocalRun } from "../../infra/local-run.ts";
import type { NewKey } from "../../shared/contracts/admin.ts";
import type { AdapterList, CompletionResponse, UsageReport } from "../../shared/contracts/responses.ts";
import { callAdmin, newKeyOf } from "../support/admin.ts";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { smallBase } from "../support/small-base.ts";
import { freePorts, type Stack, startStack } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";

const BACKEND_SECRETS = "self-hosted-0123456789abcdef0123456789ab";
/** Requests a minute that each round's limited tenant may make. */
const limit = 3;
const minuteMs = 60_000;
const prompt = "Once upon a time";

export type KilledEdge = ReturnType<typeof killedEdge>;

/** An edge with one backend, on the same port after each start. Its state is in the folder `state`. */
export function killedEdge(state: string, backend: Backend, port: number) {
  const url = `http://127.0.0.1:${port}`;
  let stack: Stack | null = null;
  return {
    ...{ state, url },
    async start(): Promise<void> {
      const env = { STATE_DIR: state, MODEL_DIR: smallBase, BACKEND_SECRETS, EDGE_PORT: String(port) };
      stack = await startStack(env, ["--backend", backend.url], "start-edge.ts");
      await until("the edge to be ready", async () => (await fetch(`${url}/readyz`)).status === 200);
    },
    /** Kills the Worker's process and the process that started it, at once. */
    async kill(): Promise<void> {
      process.kill(readLocalRun(state)!.worker, "SIGKILL");
      await stack!.kill();
    },
    stop: async () => stack?.stop(),
  };
}

export async function startKilledEdge(folder: string): Promise<{ edge: KilledEdge; backend: Backend }> {
  const env = { THREADS: "1", MODEL_DIR: smallBase, BACKEND_SECRETS, DATA_DIR: path.join(folder, "data") };
  const backend = await startBackend(env);
  const [port] = await freePorts(1);
  const edge = killedEdge(path.join(folder, "state"), backend, port);
  await edge.start();
  return { edge, backend };
}

async function until(what: string, isSo: () => Promise<true | unknown>, timeoutMs = 60_000): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    const found = await isSo();
    if (found === true) return;
    if (performance.now() > endMs) throw new Error(`waited ${timeoutMs} ms for ${what}: ${JSON.stringify(found)}`);
    await sleep(50);
  }
}

export interface Used {
  requests: number;
  tokens: number;
}

const plus = (one: Used, other: Used, sign = 1): Used => ({
  requests: one.requests + sign * other.requests,
  tokens: one.tokens + sign * other.tokens,
});

/** A request that may be cut off. */
interface Cut {
  /** The most use that the request may be charged. */
  most: Used;
  /** Idempotency key and body, if the request can be repeated. */
  again: { key: string; body: object } | null;
}

interface CallerOptions {
  edge: KilledEdge;
  tenant: string;
  key: string;
  /** Whether the caller uses the client library. */
  isResuming: boolean;
  random: () => number;
}

export class Caller {
  readonly options: CallerOptions;
  /** Charges of the answers that ended, and of requests that were cut off before the last check. */
  charged: Used = { requests: 0, tokens: 0 };
  answers = 0;
  resumed = 0;
  cut: Cut | null = null;
  /** Tokens of each memory that was made, by name. */
  readonly memories = new Map<string, number>();
  deleted = 0;
  made = 0;
  /** Name of a memory that is being made or deleted, so that it may exist or not. */
  unknown: string | null = null;
  /** The last answer with an idempotency key that ended. */
  repeatable: { key: string; body: object; answer: unknown } | null = null;
  #requests = 0;

  constructor(options: CallerOptions) {
    this.options = options;
  }

  send(method: string, route: string, body?: unknown, { by = fetch, headers = {} }: SendOptions = {}) {
    const { edge, key } = this.options;
    return by(edge.url + route, {
      method,
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  }

  async used(): Promise<Used> {
    const { total } = (await (await this.send("GET", "/v1/usage")).json()) as UsageReport;
    return { requests: total.requests, tokens: total.prompt_tokens + total.completion_tokens };
  }

  async memoryTokens(): Promise<Map<string, number>> {
    const { data } = (await (await this.send("GET", "/v1/adapters")).json()) as AdapterList;
    return new Map(data.map(({ name, memory }) => [name, memory!.tokens]));
  }

  /** Makes requests one after another, until one is cut off or `isOver` returns true. */
  async run(isOver: () => boolean): Promise<void> {
    try {
      while (!isOver()) {
        const turn = this.#requests++ % 5;
        if (this.options.isResuming) await this.#resumable(isOver);
        else if (turn === 2) await this.#whole();
        else if (turn === 4) await this.#write();
        else await this.#stream();
      }
    } catch (error) {
      // fetch throws a TypeError if the connection breaks.
      if (!(error instanceof TypeError)) throw error;
    }
  }

  #end(used: Used): void {
    this.charged = plus(this.charged, used);
    this.answers++;
    this.cut = null;
  }

  #body() {
    const max_tokens = 8 + Math.floor(this.options.random() * 24);
    return { prompt, max_tokens, temperature: 1, logprobs: 0, stream: true, stream_options: { include_usage: true } };
  }

  #begin(most: Used, again: Cut["again"] = null): void {
    this.cut = { most, again };
  }

  /** Whether a busy edge refused the request, which is then not charged. */
  #isRefused({ status }: Response): boolean {
    if (status !== 429 && status !== 503) return false;
    [this.cut, this.unknown] = [null, null];
    return true;
  }

  async #resumable(isOver: () => boolean): Promise<void> {
    const body = this.#body();
    this.#begin({ requests: 1, tokens: 8 + body.max_tokens });
    const by = resumableFetch({ delayMs: 200, attempts: 8 });
    const response = await this.send("POST", "/v1/completions", body, { by });
    const text = await response.text();
    if (this.#isRefused(response)) return;
    assert.equal(response.status, 200, text);
    assert.ok(text.endsWith("data: [DONE]\n\n"), text);
    assert.equal(new Set(Array.from(text.matchAll(/"id":"([^"]+)"/g), ([, id]) => id)).size, 1);
    if (isOver()) this.resumed++;
    this.#end(usageIn(text));
  }

  async #stream(): Promise<void> {
    const body = this.#body();
    this.#begin({ requests: 1, tokens: 8 + body.max_tokens });
    const response = await this.send("POST", "/v1/completions", body);
    const text = await response.text();
    if (this.#isRefused(response)) return;
    assert.equal(response.status, 200, text);
    if (!text.endsWith("data: [DONE]\n\n") || text.includes('"error"')) throw new TypeError("the stream was cut off");
    this.#end(usageIn(text));
  }

  async #whole(): Promise<void> {
    // Without adapters, because memories that come and go would change the repeated answer.
    const { stream_options: _, ...body } = { ...this.#body(), stream: false, chameleon: { adapter: "off" } };
    const key = crypto.randomUUID();
    this.#begin({ requests: 1, tokens: 8 + body.max_tokens }, { key, body });
    const response = await this.send("POST", "/v1/completions", body, { headers: { "idempotency-key": key } });
    const text = await response.text();
    if (this.#isRefused(response)) return;
    assert.equal(response.status, 200, text);
    this.#end(usageIn(text));
    this.repeatable = { key, body, answer: essenceOf(text) };
  }

  async #write(): Promise<void> {
    const [oldest] = this.memories.keys();
    const isNew = this.memories.size < 2;
    this.unknown = isNew ? `own-${this.#requests}` : oldest;
    const documents = [{ text: `${this.options.tenant} ${this.#requests} keeps ledgers at the quay. `.repeat(6) }];
    if (isNew) this.#begin({ requests: 1, tokens: 600 });
    const response = isNew
      ? await this.send("POST", "/v1/adapters", { name: this.unknown, documents })
      : await this.send("DELETE", `/v1/adapters/${this.unknown}`);
    const text = await response.text();
    if (this.#isRefused(response)) return;
    assert.ok(response.ok, text);
    if (isNew) {
      const { memory } = JSON.parse(text) as { memory: { tokens: number } };
      this.memories.set(this.unknown, memory.tokens);
      this.made++;
      this.#end({ requests: 1, tokens: memory.tokens });
    } else {
      this.memories.delete(this.unknown);
      this.deleted++;
    }
    this.unknown = null;
  }

  /**
   * Throws unless the edge has exactly what the caller was promised. Returns the charge of a request that was cut off, and repeats
   * that request under its key.
   */
  async check(): Promise<Used> {
    const memories = await this.memoryTokens();
    if (this.unknown !== null) {
      const tokens = memories.get(this.unknown);
      // A memory that was made is charged, even if its answer was cut off.
      if (tokens !== undefined && !this.memories.has(this.unknown)) this.#end({ requests: 1, tokens });
      if (tokens === undefined) this.memories.delete(this.unknown);
      else this.memories.set(this.unknown, tokens);
    }
    this.unknown = null;
    const { tenant } = this.options;
    assert.deepEqual([...memories].sort(), [...this.memories].sort(), tenant);
    const { most, again } = this.cut ?? { most: { requests: 0, tokens: 0 }, again: null };
    let extra: Used = most;
    // Polls, because settlements that failed are sent again.
    await until(`the charges of ${tenant}`, async () => {
      const used = await this.used();
      extra = plus(used, this.charged, -1);
      const isWithin = extra.requests === 0 ? extra.tokens === 0 : extra.requests === 1 && most.requests === 1;
      return (isWithin && extra.tokens >= 0 && extra.tokens <= most.tokens) || { used, charged: this.charged, most };
    });
    const options = { headers: { "idempotency-key": again?.key ?? "" } };
    const isEnded = again && usageIn(await (await this.send("POST", "/v1/completions", again.body, options)).text());
    this.charged = plus(this.charged, isEnded ?? extra);
    return extra;
  }

  /** Throws unless an answer from before the kill is repeated under its key, and the key refuses another body. */
  async repeat(): Promise<void> {
    if (!this.repeatable) return;
    const { key, body, answer } = this.repeatable;
    const options = { headers: { "idempotency-key": key } };
    const twice = await Promise.all([1, 2].map(() => this.send("POST", "/v1/completions", body, options)));
    for (const response of twice) assert.deepEqual(essenceOf(await response.text()), answer);
    const other = await this.send("POST", "/v1/completions", { ...body, max_tokens: 1 }, options);
    assert.equal(other.status, 409, await other.text());
  }
}

interface SendOptions {
  by?: typeof fetch;
  headers?: Record<string, string>;
}

function usageIn(text: string): Used {
  const [, prompt, completion] = /"prompt_tokens":(\d+),"completion_tokens":(\d+)/.exec(text)!;
  return { requests: 1, tokens: Number(prompt) + Number(completion) };
}

/** The parts of an answer that are equal when it is repeated: all but the timings. */
function essenceOf(text: string): unknown {
  const { id, created, choices, usage } = JSON.parse(text) as CompletionResponse;
  const answers = choices.map(({ text, finish_reason, logprobs }) => ({ text, finish_reason, logprobs }));
  return { id, created, answers, usage };
}

export async function newCallers(edge: KilledEdge, count: number, random: () => number): Promise<Caller[]> {
  return Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const tenant = `caller-${i}`;
      const { key } = await newKeyOf(edge.state, tenant);
      // Every second tenant has no limits, because such tenants are settled in groups.
      await callAdmin(edge.state, "POST", `/tenants/${tenant}`, { plan: i % 2 === 0 ? "standard" : "unlimited" });
      return new Caller({ edge, tenant, key, isResuming: i % 3 === 0, random });
    }),
  );
}

/** Kills an edge `kills` times under `streams` callers, and checks everything after each kill. Throws an Error if a check fails. */
export async function killUnderLoad(
  edge: KilledEdge,
  { kills, streams, seed, say }: { kills: number; streams: number; seed: number; say(line: string): void },
) {
  const random = seededRandom(seed);
  const callers = await newCallers(edge, streams, random);
  const revoked: string[] = [];
  /** Requests that were cut off. `cutCharged` is how many of them were charged, because they had been computed to their end. */
  let [cut, cutCharged] = [0, 0];
  const sum = (of: (caller: Caller) => number) => callers.reduce((total, caller) => total + of(caller), 0);
  // All keys are made first: once an address has used up its look-ups of unknown keys, the edge accepts only keys a minute old or older.
  const extras: { caller: Caller; gone: NewKey }[] = [];
  for (let round = 0; round < kills; round++) {
    const tenant = `limited-${round}`;
    const { key } = await newKeyOf(edge.state, tenant);
    await callAdmin(edge.state, "POST", `/tenants/${tenant}`, { limits: { requests_per_minute: limit } });
    const gone = await newKeyOf(edge.state, `revoked-${round}`);
    extras.push({ caller: new Caller({ edge, tenant, key, isResuming: false, random }), gone });
  }
  for (let round = 1; round <= kills; round++) {
    const { caller, gone } = extras[round - 1];
    let isKilled = false;
    const before = sum(({ answers }) => answers);
    const traffic = Promise.all(callers.map((caller) => caller.run(() => isKilled)));
    traffic.catch(() => undefined);
    const ask = async () => {
      const response = await caller.send("POST", "/v1/completions", { prompt: "a", max_tokens: 1 });
      return response.ok ? "ok" : ((await response.json()) as { error: { code: string } }).error.code;
    };
    const askedMs = performance.now();
    // A request that finds the edge full counts against the limit, too.
    for (let i = 0; i < limit; i++) assert.match(await ask(), /^(ok|overloaded)$/);
    await callAdmin(edge.state, "DELETE", `/keys/${gone.id}`);
    revoked.push(gone.key);
    await until("answers", async () => sum(({ answers }) => answers) > before + streams / 2);
    await sleep(random() * 500);
    isKilled = true;
    await edge.kill();
    await edge.start();
    const fourth = await ask();
    if (performance.now() < askedMs + minuteMs) assert.equal(fourth, "rate_limit_exceeded");
    await traffic;
    const checks = callers.map(async (caller) => {
      const isCut = caller.cut !== null;
      const extra = await caller.check();
      caller.cut = null;
      if (isCut) cut++;
      if (isCut && extra.requests > 0) cutCharged++;
    });
    await Promise.all(checks);
    // Repeats are free, which the next round's check confirms.
    await Promise.all(callers.map((caller) => caller.repeat()));
    say(`kill ${round}: ${sum(({ answers }) => answers)} answers, ${cut} cut off, ${cutCharged} of these charged`);
  }
  await Promise.all(callers.map((caller) => caller.check()));
  for (const bearer of revoked) {
    const { status } = await fetch(`${edge.url}/v1/models`, { headers: { authorization: `Bearer ${bearer}` } });
    assert.equal(status, 401);
  }
  return {
    // `answers` includes resumed streams and requests that made memories. Each answer that ended was charged exactly once.
    ...{ kills, answers: sum(({ answers }) => answers), tokens: sum(({ charged }) => charged.tokens) },
    ...{ resumed: sum(({ resumed }) => resumed), cut, cutCharged },
    ...{ memoriesMade: sum(({ made }) => made), memoriesDeleted: sum(({ deleted }) => deleted) },
  };
}
