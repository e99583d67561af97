/**
 * A small Hugging Face hub, as a function from request to response: model info, listing and files. Weights may come from another host, as
 * from large file storage.
 */
import { createHash } from "node:crypto";

export interface SeenRequest {
  method: string;
  url: URL;
  headers: Headers;
}

export type Fault = (answer: () => Response) => Response;

export class FakeHub {
  storage: string | null;
  readonly id: string;
  readonly files: Map<string, Uint8Array<ArrayBuffer>>;
  readonly seen: SeenRequest[] = [];
  commit = "c".repeat(40);
  /** false: every answer is the whole file, whatever range was asked for. */
  knowsRanges = true;
  readonly #faults: { path: RegExp; fault: Fault }[] = [];

  constructor(id: string, files: Record<string, Uint8Array<ArrayBuffer>>, storage: string | null = null) {
    this.storage = storage;
    this.id = id;
    this.files = new Map(Object.entries(files));
  }

  fail(path: RegExp, fault: Fault, times = 1): void {
    for (let i = 0; i < times; i++) this.#faults.push({ path, fault });
  }

  requestsFor(name: string): SeenRequest[] {
    return this.seen.filter(({ url }) => url.pathname.endsWith(`/${name}`));
  }

  handle(request: Request): Response {
    const url = new URL(request.url);
    this.seen.push({ method: request.method, url, headers: request.headers });
    const at = this.#faults.findIndex(({ path }) => path.test(url.pathname));
    const answer = () => this.#answer(url, request.headers);
    return at < 0 ? answer() : this.#faults.splice(at, 1)[0].fault(answer);
  }

  #answer(url: URL, headers: Headers): Response {
    const path = url.pathname;
    if (url.origin === this.storage) return this.#bytes(path.slice(path.lastIndexOf("/") + 1), headers);
    const short = this.id.replace(/^.*\//, "");
    const revision = new RegExp(`^/api/models/(${this.id}|${short})/revision/(main|${this.commit})$`);
    if (revision.test(path)) return Response.json({ _id: "1", id: this.id, sha: this.commit, gated: false });
    if (path === `/api/models/${this.id}/tree/${this.commit}`) return Response.json(this.#listing());
    if (path.startsWith(`/api/models/${this.id}/revision/`)) return refuse(404, "RevisionNotFound");
    const [, name] = path.match(new RegExp(`^/${this.id}/resolve/${this.commit}/([^/]+)$`)) ?? [];
    if (!name || !this.files.has(name)) return refuse(404, "RepoNotFound");
    if (!this.storage || !isLarge(name)) return this.#bytes(name, headers);
    return new Response(null, { status: 302, headers: { location: `${this.storage}/signed/${name}` } });
  }

  #listing(): object[] {
    const entries: object[] = [{ type: "directory", path: "onnx", size: 0, oid: "d".repeat(40) }];
    for (const [path, bytes] of this.files) {
      const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      const lfs = isLarge(path) ? { lfs: { oid: sha256, size: bytes.length, pointerSize: 134 } } : {};
      entries.push({ type: "file", path, size: bytes.length, oid, ...lfs });
    }
    return entries;
  }

  #bytes(name: string, headers: Headers): Response {
    const bytes = this.files.get(name)!;
    const from = this.knowsRanges ? headers.get("range")?.match(/^bytes=(\d+)-/)?.[1] : undefined;
    if (from === undefined) return new Response(bytes);
    const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
    return new Response(bytes.subarray(Number(from)), { status: 206, headers: { "content-range": range } });
  }
}

export function refuse(status: number, code: string, headers: Record<string, string> = {}): Response {
  return Response.json({ error: code }, { status, headers: { "x-error-code": code, ...headers } });
}

/** Cuts an answer after `bytes`: breaks the connection, ends the body as if it were whole, or hangs. Calls `before` first. */
export function cutAfter(bytes: number, how: "break" | "end" | "hang" = "break", before = () => {}): Fault {
  return (answer) => {
    const { status, headers, body } = answer();
    const reader = body!.getReader();
    let left = bytes;
    const cut = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          if (left === 0) before();
          if (left === 0 && how === "hang") return new Promise(() => {});
          if (left === 0 && how === "break") return controller.error(new Error("connection reset"));
          const { value } = left > 0 ? await reader.read() : { value: undefined };
          if (!value) return controller.close();
          controller.enqueue(value.subarray(0, left));
          left -= Math.min(left, value.length);
        },
      },
      { highWaterMark: 0 },
    );
    return new Response(cut, { status, headers });
  };
}

function isLarge(name: string): boolean {
  return name.endsWith(".safetensors");
}
