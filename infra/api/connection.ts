/** Client of the public API and the admin API, for commands. Calls the edge on this machine unless `--url` names another. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, InvalidArgumentError } from "commander";
import { z } from "zod";
import { httpUrl } from "../../gpu-backend/command-line.ts";
import { localKey, stateFolder } from "../local-edge.ts";
import { readLocalRun } from "../local-run.ts";
import { localHost, readPort } from "../ports.ts";

export interface ConnectionOptions {
  url?: string;
  key?: string;
}

const errorSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable() }) });
const attempts = 5;
/** Timeout of a request. Making an adapter takes seconds. */
const answerMs = 120_000;
/** Bounds on the wait before a retry. A minute is enough, because limits count over 60 seconds. */
const retrySeconds = { min: 1, max: 60 };

export class ApiError extends Error {
  readonly code: string | null;

  constructor(message: string, code: string | null) {
    super(message);
    this.code = code;
  }
}

export function withConnection(command: Command): Command {
  return command
    .option("--url <url>", "address of the API; that of the local start unless set", httpUrl)
    .option(
      "--key <key>",
      "API key; other users of this machine see it in the list of processes, and CHAMELEON_API_KEY they do not; " +
        "that variable, or the key of the local start, unless set",
    );
}

export interface AdminOptions {
  url?: string;
  json?: boolean;
}

export function withAdminConnection(command: Command): Command {
  return command
    .option(
      "--url <url>",
      "address of the edge, whose admin key is in CHAMELEON_ADMIN_KEY; the local start unless set",
      httpUrl,
    )
    .option("--json", "print JSON");
}

/** Throws an Error if `--url` is set without CHAMELEON_ADMIN_KEY, or if neither `--url` is set nor an edge runs here. */
export function adminConnection({ url }: AdminOptions): Connection {
  if (url !== undefined) {
    const key = process.env.CHAMELEON_ADMIN_KEY;
    if (!key) throw new Error(`set CHAMELEON_ADMIN_KEY to the admin key of ${url}`);
    return new Connection({ url, key });
  }
  const run = readLocalRun(stateFolder());
  if (run) return new Connection({ url: run.edge, key: run.adminKey });
  throw new Error(`no server runs on ${stateFolder()}; \`chameleon start\` serves it, --url names another`);
}

/** A `retry-after` header that holds a date counts as absent. */
function retryDelayMs(header: string | null): number {
  const seconds = Number(header);
  if (!Number.isFinite(seconds)) return 1000 * retrySeconds.min;
  return 1000 * Math.min(retrySeconds.max, Math.max(retrySeconds.min, seconds));
}

export class Connection {
  readonly #url: string;
  readonly #key: string;

  constructor({ url, key }: ConnectionOptions) {
    const run = url === undefined ? readLocalRun(stateFolder()) : null;
    const target = url ?? run?.edge;
    this.#url = target ?? `http://${localHost}:${readPort(process.env, "EDGE_PORT", 8787)}`;
    // CHAMELEON_API_KEY is not sent to the default address, because any process of this machine may listen there.
    this.#key = key || (target !== undefined && process.env.CHAMELEON_API_KEY) || (run?.key ?? localKey);
    if (!/^[\x21-\x7e]+$/.test(this.#key)) {
      throw new InvalidArgumentError("the API key holds a character that no header can carry");
    }
  }

  /** Repeats a request while the answer is 429 or 503, a few times. Throws an ApiError, or an Error if nothing answers. */
  async call<T>(
    schema: z.ZodType<T>,
    method: "GET" | "POST" | "PUT" | "DELETE",
    path: string,
    body?: object | FormData | Uint8Array<ArrayBuffer>,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const { response, answer } = await this.#send(method, path, body);
      if (response.ok) return this.#parsed(schema, answer);
      const isBusy = response.status === 429 || response.status === 503;
      const { data } = errorSchema.safeParse(answer);
      const { message, code } = data?.error ?? { message: `${this.#url} answered ${response.status}`, code: null };
      if (!isBusy || code === "insufficient_quota" || attempt === attempts) throw new ApiError(message, code);
      await sleep(retryDelayMs(response.headers.get("retry-after")));
    }
  }

  #parsed<T>(schema: z.ZodType<T>, answer: unknown): T {
    const { data, error } = schema.safeParse(answer);
    if (error) throw new Error(`${this.#url} does not answer as Chameleon Edge does`, { cause: error });
    return data;
  }

  /** `answer`: the JSON of the response's body, or null for another body. */
  async #send(
    method: string,
    path: string,
    body: object | FormData | Uint8Array<ArrayBuffer> | undefined,
  ): Promise<{ response: Response; answer: unknown }> {
    const isJson = body !== undefined && !(body instanceof FormData || body instanceof Uint8Array);
    try {
      const response = await fetch(this.#url + path, {
        method,
        headers: { authorization: `Bearer ${this.#key}`, ...(isJson && { "content-type": "application/json" }) },
        ...(body && { body: isJson ? JSON.stringify(body) : body }),
        signal: AbortSignal.timeout(answerMs),
      });
      return { response, answer: parsedJson(await response.text()) };
    } catch (cause) {
      if (cause instanceof Error && cause.name === "TimeoutError") {
        throw new Error(`${this.#url} did not answer within ${answerMs / 1000} s`, { cause });
      }
      throw new Error(`nothing answers at ${this.#url}; \`chameleon start\` serves it, --url names another`, { cause });
    }
  }
}

export function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
