/**
 * Finds the tokens that may come next in rows (sequences) whose text must have a form: a JSON Schema or tool calls. Compiling a form's
 * grammar may take long. A trial thread compiles each new form once to measure the time. Then a quick thread serves rows of forms that
 * compiled quickly, and a slow thread serves all other rows.
 */
import { setTimeout as startTimer } from "node:timers";
import { setTimeout } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { hasCalls } from "../../shared/contracts/tools.ts";
import { ServiceError } from "../../shared/errors.ts";
import { LruCache } from "../lru.ts";
import type { ThreadAnswer, ThreadCall, ThreadData } from "./grammar-thread.ts";

export const grammarLimits = {
  compileMs: 2000,
  /** Maximum time of a quick form's trial. */
  quickMs: 50,
  /** Timeout of the slow thread's answer, including a compilation. */
  answerMs: 5000,
  /** Timeout of the quick thread's answer. A form that takes longer moves to the slow thread. */
  quickAnswerMs: 250,
  /** Maximum waiting trials of one tenant. */
  waitingTrials: 16,
  /** Maximum bytes of the forms whose trials are remembered. */
  knownFormBytes: 2 ** 20,
};

export type GrammarRow = Pick<Row, "allowed" | "advance" | "close">;

/** `slower` replaces `thread` after a late answer. */
interface Served {
  thread: Thread;
  slower: Thread | null;
}

type Known = Served | { fault: string };

interface Trial extends PromiseWithResolvers<Known> {
  tenant: string;
  form: string;
}

export class Grammars {
  readonly #now: () => number;
  readonly #trial: Thread;
  readonly #quick: Thread;
  readonly #slow: Thread;
  readonly #known = new LruCache<Known>(grammarLimits.knownFormBytes);
  /** The first trial is running, the later trials wait. */
  readonly #trials: Trial[] = [];
  /** Time of trials by tenant. Cleared when no trial waits. */
  readonly #spentMs = new Map<string, number>();
  #isTrying = false;
  #rows = 0;

  /** `now` is a monotonic clock, in milliseconds. Threads start when first needed. */
  constructor(data: () => ThreadData, now: () => number) {
    this.#now = now;
    let known: ThreadData | null = null;
    const open = (isPatient: boolean) => new Thread(() => (known ??= data()), isPatient);
    [this.#trial, this.#quick, this.#slow] = [open(true), open(false), open(true)];
  }

  /** The row's text is `tokens` so far. `changed` is called when `allowed` is known or the row fails. Throws `invalid_request`. */
  async open(
    { tenant, form, tokens }: { tenant: string; form: string; tokens: readonly number[] },
    changed: Changed,
  ): Promise<GrammarRow> {
    const known = this.#known.get(form) ?? (await this.#try(tenant, form));
    if ("fault" in known) throw refused(known.fault, form);
    const row = new Row(known, { id: this.#rows++, form, tokens: [...tokens] }, changed);
    await row.ready();
    return row;
  }

  close(): void {
    for (const thread of [this.#trial, this.#quick, this.#slow]) thread.end("the engine ends");
  }

  #try(tenant: string, form: string): Promise<Known> {
    // All choices of a request have the same form, so they share one trial.
    const same = this.#trials.find((one) => one.tenant === tenant && one.form === form);
    if (same) return same.promise;
    const own = this.#trials.filter((one) => one.tenant === tenant).length;
    if (own >= grammarLimits.waitingTrials) {
      const message = `${own} new schemas of yours wait to be compiled; that is the maximum.`;
      throw new ServiceError("overloaded", message, { retryAfterSeconds: 2 });
    }
    const trial = { tenant, form, ...Promise.withResolvers<Known>() };
    this.#trials.push(trial);
    void this.#runTrials();
    return trial.promise;
  }

  async #runTrials(): Promise<void> {
    if (this.#isTrying) return;
    this.#isTrying = true;
    for (let next = this.#nextTrial(); next; next = this.#nextTrial()) {
      const { tenant, form } = next;
      let tookMs = 0;
      let known = this.#known.get(form);
      if (!known) {
        const startedMs = this.#now();
        const answer = await this.#trial.call({ type: "compile", form }, grammarLimits.compileMs);
        tookMs = this.#now() - startedMs;
        this.#spentMs.set(tenant, (this.#spentMs.get(tenant) ?? 0) + tookMs);
        const isQuick = tookMs <= grammarLimits.quickMs;
        const served = isQuick ? { thread: this.#quick, slower: this.#slow } : { thread: this.#slow, slower: null };
        known = "fault" in answer ? answer : served;
        this.#known.set(form, known, form.length);
      }
      this.#trials.shift();
      next.resolve(known);
      // Pauses for as long as the trial took, so that the engine gets the cores.
      if (tookMs > grammarLimits.quickMs && this.#trials.length > 0) await setTimeout(tookMs, null, { ref: false });
    }
    this.#spentMs.clear();
    this.#isTrying = false;
  }

  /** Sorts the trials: the tenant whose trials have taken the least time is next. */
  #nextTrial(): Trial | undefined {
    const spent = ({ tenant }: Trial) => this.#spentMs.get(tenant) ?? 0;
    this.#trials.sort((a, b) => spent(a) - spent(b));
    return this.#trials[0];
  }
}

function refused(fault: string, form: string): ServiceError {
  const param = hasCalls(form) ? "tools" : "response_format";
  const message = `Invalid request: ${param} has a schema that cannot be compiled: ${fault}.`;
  return new ServiceError("invalid_request", message, { param });
}

type Changed = (error: ServiceError | null) => void;

interface RowText {
  id: number;
  form: string;
  tokens: number[];
}

class Row {
  /** [⌈V / 32⌉], a bit for each token id; null while unknown. */
  allowed: Uint32Array | null = null;
  readonly #served: Served;
  readonly #text: RowText;
  readonly #changed: Changed;
  /** The thread in which the row is open, that thread's number of starts, and the number of tokens sent to the thread. */
  #thread: Thread | null = null;
  #start = 0;
  #sent = 0;
  #closed = false;

  constructor(served: Served, text: RowText, changed: Changed) {
    this.#served = served;
    this.#text = text;
    this.#changed = changed;
  }

  async ready(): Promise<void> {
    const fault = await this.#learn();
    if (fault === null) return;
    this.close();
    throw refused(fault, this.#text.form);
  }

  advance(tokenId: number): void {
    this.allowed = null;
    this.#text.tokens.push(tokenId);
    void this.#learn().then((fault) => {
      if (!this.#closed) this.#changed(fault === null ? null : refused(fault, this.#text.form));
    });
  }

  close(): void {
    this.#closed = true;
    if (this.#thread?.starts !== this.#start) return;
    void this.#thread.call({ type: "close", row: this.#text.id }, grammarLimits.answerMs);
  }

  async #learn(): Promise<string | null> {
    const { id: row, form, tokens: all } = this.#text;
    let fault = "";
    // The thread may restart because of another row. A restarted thread gets all tokens again.
    for (let attempt = 0; attempt < 3; attempt++) {
      const { thread, slower } = this.#served;
      const starts = thread.start();
      const isOpen = thread === this.#thread && starts === this.#start;
      const tokens = all.slice(isOpen ? this.#sent : 0);
      [this.#thread, this.#start] = [thread, starts];
      const call = { type: "advance", row, form, tokens } as const;
      const answer = await thread.call(call, slower ? grammarLimits.quickAnswerMs : grammarLimits.answerMs);
      if ("allowed" in answer) {
        [this.allowed, this.#sent] = [answer.allowed, all.length];
        return null;
      }
      fault = answer.fault;
      if (answer.isRefusal || (!answer.isOver && !slower)) break;
      if (!answer.isOver) Object.assign(this.#served, { thread: slower, slower: null });
    }
    return fault;
  }
}

class Thread {
  readonly #data: () => ThreadData;
  readonly #isPatient: boolean;
  #worker: Worker | null = null;
  #isReady: Promise<unknown> = Promise.resolve();
  readonly #calls = new Map<number, (answer: ThreadAnswer) => void>();
  #latest: Promise<unknown> = Promise.resolve();
  #ids = 0;
  starts = 0;

  /** `isPatient` lowers the thread's priority. */
  constructor(data: () => ThreadData, isPatient: boolean) {
    this.#data = data;
    this.#isPatient = isPatient;
  }

  /** Returns how often the thread has been started. */
  start(): number {
    if (this.#worker) return this.starts;
    const workerData = { ...this.#data(), isPatient: this.#isPatient };
    // XGrammar may print text of a schema, which must not reach this process's output.
    const options = { workerData, stdout: true, stderr: true };
    const worker = new Worker(new URL("./grammar-thread.ts", import.meta.url), options);
    worker.unref();
    const ready = Promise.withResolvers<void>();
    worker.on("message", (message: { id: number; answer: ThreadAnswer } | "ready") => {
      if (message === "ready") return ready.resolve();
      this.#calls.get(message.id)?.(message.answer);
      // After a fault of XGrammar the state of its memory is unknown.
      if ("fault" in message.answer && !message.answer.isRefusal && this.#worker === worker)
        this.end(message.answer.fault);
    });
    const ended = (reason: string) => {
      ready.resolve();
      if (this.#worker === worker) this.end(reason);
    };
    worker.on("error", ({ message }) => ended(message));
    worker.on("exit", (code) => ended(`its thread ended with ${code}`));
    this.#worker = worker;
    this.#isReady = ready.promise;
    return ++this.starts;
  }

  /** Never rejects. A thread that takes longer than `withinMs` is ended. */
  async call(call: ThreadCall, withinMs: number): Promise<ThreadAnswer> {
    const starts = this.start();
    await this.#isReady;
    if (this.starts !== starts || !this.#worker) return { fault: "its thread ended", isOver: true };
    const id = this.#ids++;
    const { promise, resolve } = Promise.withResolvers<ThreadAnswer>();
    // The thread handles calls in order, so a call's time begins when the previous call has ended.
    let timer: NodeJS.Timeout | undefined;
    void this.#latest.then(() => {
      if (!this.#calls.has(id)) return;
      timer = startTimer(() => {
        resolve({ fault: `it takes more than ${withinMs} ms` });
        this.end("another call takes too long");
      }, withinMs);
    });
    this.#latest = promise;
    this.#calls.set(id, resolve);
    this.#worker.postMessage({ id, call });
    const answer = await promise;
    clearTimeout(timer);
    this.#calls.delete(id);
    return answer;
  }

  /** Calls in progress get `fault` as their answer. */
  end(fault: string): void {
    void this.#worker?.terminate();
    this.#worker = null;
    for (const answer of this.#calls.values()) answer({ fault, isOver: true });
  }
}
