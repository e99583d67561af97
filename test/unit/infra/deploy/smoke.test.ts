/** The test of a deployed version, against an edge that MSW stands in for. */
import { HttpResponse, http } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { smokeTest } from "../../../../infra/deploy/smoke.ts";

const url = "https://edge.test";
const header = "cloudflare-workers-version-overrides";
const limits = { settleMs: 0, retryMs: 0, requestMs: 5000 };
const server = setupServer();
/** The version that each request picked. */
let picked: (string | null)[] = [];

beforeAll(() => server.listen({ onUnhandledFrame: "error" }));
afterEach(() => {
  server.resetHandlers();
  picked = [];
});
afterAll(() => server.close());

const working = { version: "new", ready: 200, stranger: 401, completion: { usage: { completion_tokens: 1 } } };
type Answers = Partial<typeof working>;

function edgeThat(answers: Answers = {}): void {
  const { version, ready, stranger, completion } = { ...working, ...answers };
  server.use(
    http.get(`${url}/healthz`, ({ request }) => {
      picked.push(request.headers.get(header));
      return HttpResponse.json({ status: "ok", version });
    }),
    http.get(`${url}/readyz`, ({ request }) =>
      HttpResponse.json({}, { status: request.url.endsWith("?wake=true") ? ready : 500 }),
    ),
    http.post(`${url}/v1/completions`, ({ request }) =>
      request.headers.has("authorization")
        ? HttpResponse.json(completion)
        : HttpResponse.json({}, { status: stranger }),
    ),
  );
}

const smoke = (isPicked: boolean, own = limits) =>
  smokeTest({ url, worker: "edge-production", version: "new", isPicked, key: "sk" }, own, new AbortController().signal);

test("a version that works passes, also if the platform follows the header that picks it only after a while", async () => {
  edgeThat();
  await smoke(true);
  await smoke(false);
  expect(picked).toEqual([`edge-production="new"`, null]);
  server.use(http.get(`${url}/healthz`, () => HttpResponse.json({ version: "old" }), { once: true }));
  await smoke(true, { ...limits, settleMs: 60_000 });
});

test.each<[string, Answers, string]>([
  ["another version answers", { version: "old" }, "the version old answered, not new"],
  ["no backend is ready", { ready: 503 }, "/readyz was answered 503"],
  ["strangers are let in", { stranger: 200 }, "a completion without a key was answered 200, not 401"],
  ["a completion has no token", { completion: { usage: { completion_tokens: 0 } } }, "a completion was answered 200"],
])("it fails where %s", async (_, answers, message) => {
  edgeThat(answers);
  await expect(smoke(true)).rejects.toThrow(message);
});
