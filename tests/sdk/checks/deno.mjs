// sandbox.deno: scripts, their servers, and the interactive evaluator.
import { assert, eventually, fresh, rejection, row } from "./lib.mjs";

const piped = { stdout: "piped", stderr: "piped" };

export default [
  row("deno.run({ code })", async (sandbox) => {
    const child = await sandbox.deno.run({ code: "const n: number = 6 * 7; console.log(n);", extension: "ts", ...piped });
    const { stdoutText, status } = await child.output();
    assert.deepEqual([stdoutText, status.code], ["42\n", 0]);
  }),
  row("deno.run({ entrypoint })", async (sandbox) => {
    const path = fresh(".js");
    await sandbox.fs.writeTextFile(path, "console.log(Deno.cwd()); Deno.exit(4);");
    const { stdoutText, status } = await (await sandbox.deno.run({ entrypoint: path, cwd: "/usr", ...piped })).output();
    assert.deepEqual([stdoutText, status.code], ["/usr\n", 4]);
  }),
  row("deno.run scriptArgs, env, clearEnv", async (sandbox) => {
    const code = "console.log(JSON.stringify([Deno.args, Deno.env.get('GIVEN'), Deno.env.get('LAYER')]))";
    await sandbox.env.set("LAYER", "1");
    const run = async (options) => JSON.parse((await (await sandbox.deno.run({ code, ...piped, ...options })).output()).stdoutText);
    assert.deepEqual(await run({ scriptArgs: ["a b", "--c"], env: { GIVEN: "2" } }), [["a b", "--c"], "2", "1"]);
    assert.deepEqual(await run({ clearEnv: true, env: { GIVEN: "3" } }), [[], "3", null]);
  }),
  row("deno.run.watch and \"restart\"", async (sandbox) => {
    const path = fresh(".js");
    await sandbox.fs.writeTextFile(path, "console.log('first'); setInterval(() => {}, 1000);");
    const child = await sandbox.deno.run({ entrypoint: path, watch: true, ...piped });
    let restarts = 0;
    child.addEventListener("restart", () => restarts++);
    const reader = child.stdout.getReader();
    let seen = "";
    const shows = async (wanted) => {
      while (!seen.includes(wanted)) seen += new TextDecoder().decode((await reader.read()).value);
    };
    await shows("first");
    // Deno begins to watch at about the time at which the program begins: a change may come too early.
    const rewrite = () => sandbox.fs.writeTextFile(path, "console.log('second'); setInterval(() => {}, 1000);");
    const again = setInterval(() => rewrite().catch(() => {}), 3000);
    await rewrite();
    await shows("second");
    clearInterval(again);
    await eventually(() => restarts > 0, "the restart is told");
    await child.kill("SIGKILL");
  }),
  row("DenoProcess.httpReady", async (sandbox) => {
    const serving = await sandbox.deno.run({ code: "Deno.serve(() => new Response('x'));", stdout: "null", stderr: "null" });
    assert.equal(await serving.httpReady, true);
    await serving.kill();
    const ending = await sandbox.deno.run({ code: "1", stdout: "null", stderr: "null" });
    assert.equal(await ending.httpReady, false);
  }),
  row("DenoProcess.fetch", async (sandbox) => {
    const code = "Deno.serve(async (r) => new Response(`${r.method} ${new URL(r.url).pathname} ${await r.text()}`, { headers: { 'x-a': 'b' } }));";
    const child = await sandbox.deno.run({ code, stdout: "null", stderr: "null" });
    await child.httpReady;
    const answer = await child.fetch("http://ignored.invalid/path", { method: "POST", body: "body" });
    assert.deepEqual([answer.status, answer.headers.get("x-a"), await answer.text()], [200, "b", "POST /path body"]);
    assert.equal(answer.headers.get("content-type"), "text/plain;charset=UTF-8");
    await child.kill();
  }),
  row("deno.eval", async ({ deno }) => {
    assert.equal(await deno.eval("const a = 1; const b = 2; a + b;"), 3);
    assert.deepEqual(await deno.eval("({ list: [1, 'zwei', null], deep: { x: true } })"), { list: [1, "zwei", null], deep: { x: true } });
    assert.equal((await deno.eval("undefined")) ?? null, null);
    const error = await rejection(deno.eval("throw new RangeError('too far')"), "RangeError");
    assert.match(error.message, /too far/);
    await rejection(deno.eval("const = 1"), "SyntaxError");
  }),
  row("deno.repl, DenoRepl.eval", async ({ deno }) => {
    const repl = await deno.repl();
    await repl.eval("let counter = 1; function add(a: number, b = 0) { return { sum: a + b, counter }; }");
    await repl.eval("counter += 1");
    assert.equal(await repl.eval("counter"), 2);
    assert.equal(await repl.eval("await Promise.resolve(5)"), 5);
    await rejection(repl.eval("nowhere"), "ReferenceError");
    assert.equal(await repl.eval("counter"), 2);
    await repl.close();
  }, ["deno.repl", "DenoRepl.eval", "Sandbox.deno"]),
  row("DenoRepl.call", async ({ deno }) => {
    const repl = await deno.repl();
    await repl.eval("function add(a, b) { return { sum: a + b }; }");
    assert.deepEqual(await repl.call("add", 1, 2), { sum: 3 });
    assert.deepEqual(await repl.call("(async (...all) => all.length)", 1, null, { a: [] }), 3);
    await rejection(repl.call("(() => { throw new TypeError('no'); })"), "TypeError");
    await repl.close();
  }),
  row("DenoRepl.close and asyncDispose", async ({ deno }) => {
    const repl = await deno.repl();
    await repl.close();
    await repl.close();
    assert.equal(typeof (await repl.status).code, "number");
    const other = await deno.repl();
    await other[Symbol.asyncDispose]();
  }),
];
