import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { atEnd } from "./at-end.ts";

/** The server ends with the running test, or with the file's tests outside of a test. Returns the server's URL. */
export async function serve(listener: RequestListener, port = 0): Promise<string> {
  const server = createServer(listener).listen(port, "127.0.0.1");
  atEnd(() => void server.close());
  await once(server, "listening");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
