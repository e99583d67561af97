/** The Durable Object in front of a backend's container. The container is fake, because none runs outside Cloudflare. */
import { expect, test } from "vitest";
import { type BackendProcess, callContainer, settingsOf } from "../../edge/platform/container.ts";

function containerThat(startCalls: number) {
  const started: (ContainerStartupOptions | undefined)[] = [];
  let isRunning = false;
  let calls = 0;
  let exit: () => void = () => undefined;
  const answer = async () => {
    if (!isRunning || ++calls <= startCalls) throw new Error("the container is not listening on port 8788");
    return new Response("served");
  };
  const container = {
    get running() {
      return isRunning;
    },
    start(options?: ContainerStartupOptions) {
      started.push(options);
      isRunning = true;
    },
    monitor: () =>
      new Promise<void>((resolve) => {
        exit = resolve;
      }),
    setInactivityTimeout: async () => undefined,
    getTcpPort: () => ({ fetch: answer }) as unknown as Fetcher,
  } satisfies BackendProcess;
  const stop = () => {
    isRunning = false;
    exit();
  };
  return { container, started, stop };
}

test("the first call starts the container; until it listens the answer is 503, as of a backend that starts", async () => {
  const { container, started, stop } = containerThat(1);
  const background: Promise<void>[] = [];
  const call = () =>
    callContainer(container, new Request("http://weur-1.container/readyz"), {}, (work) => void background.push(work));
  const first = await call();
  expect([first.status, first.headers.get("retry-after")]).toEqual([503, "2"]);
  expect(await first.json()).toMatchObject({ error: { code: "backend_unavailable" } });
  expect(await (await call()).text()).toBe("served");
  expect(started).toHaveLength(1);

  stop();
  await Promise.all(background);
  expect(await (await call()).text()).toBe("served");
  expect(started).toHaveLength(2);
});

test("the backend has the edge's secret, its own default settings, and the network only where artifacts are published", async () => {
  const settings = settingsOf({ BACKEND_SECRETS: "s", TENANT_KEYS: "[]", ARTIFACTS: {} });
  expect(settings).toEqual({ BACKEND_SECRETS: "s" });
  for (const [given, enableInternet] of [
    [settings, false],
    [settingsOf({ ARTIFACTS_URL: "https://bucket" }), true],
  ] as const) {
    const { container, started } = containerThat(0);
    await callContainer(container, new Request("http://weur-1.container/"), given, () => undefined);
    expect(started).toEqual([{ env: given, enableInternet }]);
  }
});
