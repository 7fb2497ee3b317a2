// The package's own error classes, each provoked at a server that works.
import { Client, KillController, Sandbox } from "@deno/sandbox";
import * as library from "@deno/sandbox";
import { assert, rejection, row } from "./lib.mjs";

export default [
  row("InvalidMemoryError", async () => {
    await rejection(Sandbox.create({ memory: "much" }), "InvalidMemoryError");
    await rejection(Sandbox.create({ memory: "1MiB" }), "InvalidMemoryError");
  }),
  row("InvalidTimeoutError", async (sandbox) => {
    await rejection(Sandbox.create({ timeout: "soon" }), "InvalidTimeoutError");
    await rejection(sandbox.extendTimeout("session"), "InvalidTimeoutError");
  }),
  row("MissingTokenError", async () => {
    await rejection((async () => await new Client({ token: "" }).sandboxes.list())(), "MissingTokenError");
  }),
  row("InvalidTokenError", async () => {
    await rejection(Sandbox.create({ token: "ddo_of-nobody" }), "InvalidTokenError");
  }),
  row("NetworkError", async () => {
    // A port on which nothing listens.
    const client = new Client({ apiEndpoint: "http://127.0.0.1:9" });
    await rejection(client.sandboxes.list(), "NetworkError");
  }),
  row("SandboxKillError", async (sandbox) => {
    // A kill of what is gone is none, so the token of this one request is spoilt on its way.
    const { fetch } = globalThis;
    globalThis.fetch = (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: "Bearer ddo_of-nobody" } });
    try {
      const error = await rejection(sandbox.kill(), "SandboxKillError");
      assert.match(String(error.message), /401/);
    } finally {
      globalThis.fetch = fetch;
    }
  }),
  row("ConnectionClosedError", async () => {
    const sandbox = await Sandbox.create({ timeout: "5m" });
    const waits = rejection(sandbox.sh`sleep 600`, "ConnectionClosedError");
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await sandbox.kill();
    assert.ok((await waits) instanceof library.SandboxSdkError);
  }, ["ConnectionClosedError", "SandboxSdkError"]),
  row("ConnectionEstablishmentError", async () => {
    const error = await rejection(Sandbox.connect({ id: "sbx_loc_00000000000000000000" }), "ConnectionEstablishmentError", "SANDBOX_NOT_FOUND");
    assert.equal(error.status, 404);
  }),
  row("RpcError", async (sandbox) => {
    // No method of the client's is unknown to the server, so the class is only seen from outside: every
    // failure of a call is a class of Deno's.
    const error = await rejection(sandbox.fs.readFile("/no/such/file"), "NotFound");
    assert.ok(!(error instanceof library.RpcError));
  }),
  row("KillController", async (sandbox) => {
    const controller = new KillController();
    assert.equal(controller.signal.aborted, false);
    let told = 0;
    const listener = () => told++;
    controller.signal.addListener(listener);
    const child = new KillController();
    const link = controller.signal.linkChild(child.signal);
    const ended = rejection((async () => await sandbox.sh`sleep 600`.signal(child.signal))(), "SandboxCommandError");
    await new Promise((resolve) => setTimeout(resolve, 1500));
    controller.kill("SIGTERM");
    assert.equal((await ended).code, 143);
    assert.deepEqual([controller.signal.aborted, controller.signal.abortedExitCode, told], [true, 143, 1]);
    link.unsubscribe();
    controller.signal.removeListener(listener);
    controller.kill("SIGTERM");
    assert.equal(told, 1);
  }, ["KillController.signal", "KillController.kill", "KillSignal.aborted", "KillSignal.abortedExitCode", "KillSignal.linkChild", "KillSignal.addListener", "KillSignal.removeListener"]),
];
