// What an editor does, by the client that adapters of other languages are tested with. One scenario a call:
//   node scenarios.js NAME NOA FOLDER [ARGUMENT]
// FOLDER holds order.yaml and shop.py. Exits with 1 and says why where something is not as expected.

const assert = require("assert");
const { spawn } = require("child_process");
const path = require("path");
const { DebugClient } = require("@vscode/debugadapter-testsupport");

const [name, noa, folder, argument] = process.argv.slice(2);
const program = path.join(folder, "order.yaml");
const launchArguments = { program, home: path.join(folder, "home"), plugins: [path.join(folder, "shop.py")] };
const TIMEOUT_MS = 60000;

class Client extends DebugClient {
  constructor() {
    super(noa, "dap", "noa", {}, true);
    this.defaultTimeout = TIMEOUT_MS;
    this.seen = [];
  }

  // The adapter takes an argument (`noa dap`), which the client's own start cannot give.
  begin() {
    this._adapterProcess = spawn(noa, ["dap"], { stdio: ["pipe", "pipe", "inherit"] });
    this.connect(this._adapterProcess.stdout, this._adapterProcess.stdin);
  }

  dispatch(body) {
    this.seen.push(JSON.parse(body));
    super.dispatch(body);
  }

  // Launches and configures; gives the first stop.
  async go(arguments_, configure = async () => {}, request = "launch") {
    await this.initializeRequest();
    if (!this.seen.some((m) => m.event === "initialized")) await this.waitForEvent("initialized");
    await this.send(request, arguments_);
    await configure();
    return this.until(() => this.configurationDoneRequest());
  }

  // Does something, and gives the stop that follows.
  async until(what, event = "stopped") {
    const [found] = await Promise.all([this.waitForEvent(event), what()]);
    return found.body;
  }

  async frames(threadId) {
    return (await this.stackTraceRequest({ threadId })).body.stackFrames;
  }

  // The variables of a scope of the top frame, by name.
  async scope(threadId, scopeName) {
    const [top] = await this.frames(threadId);
    const { scopes } = (await this.scopesRequest({ frameId: top.id })).body;
    const scope = scopes.find((one) => one.name === scopeName);
    assert.ok(scope, `no scope ${scopeName} among ${scopes.map((one) => one.name)}`);
    return { reference: scope.variablesReference, ...(await this.rows(scope.variablesReference)) };
  }

  async rows(variablesReference) {
    const { variables } = (await this.variablesRequest({ variablesReference })).body;
    return Object.fromEntries(variables.map((one) => [one.name, one]));
  }
}

const scenarios = {
  async "initialized comes after the answer to initialize"(client) {
    await client.launch(launchArguments);
    const [first, second] = client.seen;
    assert.equal(first.command, "initialize");
    assert.equal(second.event, "initialized");
    assert.ok(first.body.supportsStepBack && first.body.supportsSetVariable);
    assert.equal(first.body.exceptionBreakpointFilters[0].filter, "failure");
  },

  async "breakpoints on lines stop there, with their conditions"(client) {
    let set;
    const stop = await client.go(launchArguments, async () => {
      set = (
        await client.setBreakpointsRequest({
          source: { path: program },
          breakpoints: [
            { line: 16, condition: "task.inputs.cents == 1500" },
            { line: 19 },
            { line: 12, condition: "false" },
            { line: 26, condition: "tusk.name" },
            { line: 99 },
          ],
        })
      ).body.breakpoints;
    });
    assert.deepEqual(
      set.map((one) => [one.verified, one.line]),
      [
        [true, 14],
        [true, 22],
        [true, 14],
        [false, 26],
        [false, 99],
      ],
    );
    assert.match(set[3].message, /'tusk'.*Did you mean 'task'/);
    assert.match(set[4].message, /no task at this line/);
    assert.equal(stop.reason, "breakpoint");
    assert.deepEqual(stop.hitBreakpointIds, [set[0].id]);
    const frames = await client.frames(stop.threadId);
    assert.deepEqual(
      frames.map((one) => [one.name.replace(/run .*/, "run"), one.line, one.source.path]),
      [
        ["pay: shop.pay", 14, program],
        ["stage buy", 6, program],
        ["order: run", 1, program],
      ],
    );
    const elsewhere = await client.setBreakpointsRequest({
      source: { path: path.join(folder, "shop.py") },
      breakpoints: [{ line: 1 }],
    });
    assert.equal(elsewhere.body.breakpoints[0].verified, false);
    await client.until(() => client.nextRequest({ threadId: stop.threadId }), "terminated");
    assert.equal(client.seen.find((m) => m.event === "exited").body.exitCode, 1);
  },

  async "steps go from task to task, and out of a stage"(client) {
    let stop = await client.go({ ...launchArguments, inputs: { item: "tea" }, stopOnEntry: true });
    assert.equal(stop.reason, "entry");
    assert.equal((await client.frames(stop.threadId))[0].line, 9);
    stop = await client.until(() => client.nextRequest({ threadId: stop.threadId }));
    assert.equal(stop.reason, "step");
    assert.equal((await client.frames(stop.threadId))[0].line, 14);
    stop = await client.until(() => client.stepOutRequest({ threadId: stop.threadId }));
    assert.equal((await client.frames(stop.threadId))[0].name, "mail: shop.note");
    const { threads } = (await client.threadsRequest()).body;
    assert.deepEqual(
      threads.map((one) => one.name),
      ["tell/mail (held: step)", "tell/book (held: step)"],
    );
    // the other thread is stepped, this one stays
    const other = threads[1].id;
    stop = await client.until(() => client.stepInRequest({ threadId: other }));
    assert.equal((await client.frames(stop.threadId))[0].name, "mail: shop.note");
    assert.equal((await client.threadsRequest()).body.threads.length, 1);
    await client.until(() => client.continueRequest({ threadId: stop.threadId }), "terminated");
    assert.equal(client.seen.find((m) => m.event === "exited").body.exitCode, 0);
    const said = client.seen.filter((m) => m.event === "output").map((m) => m.body.output);
    assert.ok(said.includes("buy/price info: looking up tea\n"), said.join(""));
  },

  async "variables are shown nested, changed, and evaluated"(client) {
    let stop = await client.go(launchArguments, () => client.setFunctionBreakpointsRequest({ breakpoints: [{ name: "pay" }] }));
    const inputs = await client.scope(stop.threadId, "Inputs");
    assert.equal(inputs.cents.value, "1500");
    const stages = await client.scope(stop.threadId, "Stages");
    const buy = await client.rows(stages.buy.variablesReference);
    const price = await client.rows(buy.price.variablesReference);
    const outputs = await client.rows(price.outputs.variablesReference);
    const tags = await client.rows(outputs.tags.variablesReference);
    assert.equal(tags[0].value, '"new"');
    assert.equal((await client.rows(tags[1].variablesReference)).in.evaluateName, "stages.buy.price.outputs.tags[1].in");
    const run = await client.scope(stop.threadId, "Run");
    assert.equal(run.mode.value, '"debug"');
    const changed = await client.setVariableRequest({ variablesReference: inputs.reference, name: "cents", value: "500 + 400" });
    assert.equal(changed.body.value, "900");
    await assert.rejects(client.setVariableRequest({ variablesReference: run.reference, name: "mode", value: "1" }), /cannot be changed/);
    await assert.rejects(client.variablesRequest({ variablesReference: 4711 }), /no variables 4711/);
    const [{ id: frameId }] = await client.frames(stop.threadId);
    const found = await client.evaluateRequest({ expression: "task.inputs.cents / 2", frameId, context: "watch" });
    assert.equal(found.body.result, "450");
    await assert.rejects(client.evaluateRequest({ expression: "stage.buy", frameId, context: "hover" }), /Did you mean 'stages'/);
    stop = await client.until(() => client.nextRequest({ threadId: stop.threadId }));
    assert.equal((await client.scope(stop.threadId, "Inputs")).text.value, '"paid 900"');
  },

  async "failures stop, are explained, and mended from the console"(client) {
    const failing = () => client.setExceptionBreakpointsRequest({ filters: ["failure"] });
    let stop = await client.go(launchArguments, failing);
    assert.equal(stop.reason, "exception");
    const info = (await client.exceptionInfoRequest({ threadId: stop.threadId })).body;
    assert.deepEqual([info.exceptionId, info.description], ["TOO_MUCH", "1500 is over the limit of 1000"]);
    const inputs = await client.scope(stop.threadId, "Inputs");
    await client.setVariableRequest({ variablesReference: inputs.reference, name: "cents", value: "2000" });
    const repl = async (expression) => {
      const [{ id: frameId }] = await client.frames(stop.threadId);
      return client.evaluateRequest({ expression, frameId, context: "repl" });
    };
    stop = await client.until(() => repl(":retry"));
    assert.match(stop.text, /2000 is over the limit/);
    await assert.rejects(repl(":override 7,"), /not JSON/);
    stop = await client.until(() => repl(':override {"paid": 1}'));
    assert.equal((await client.frames(stop.threadId))[0].name, "mail: shop.note");
    assert.equal((await client.scope(stop.threadId, "Inputs")).text.value, '"paid 1"');
  },

  async "steps back show the run as it was, and change nothing"(client) {
    let stop = await client.go({ ...launchArguments, inputs: { item: "tea" }, stopAtEnd: true }, () =>
      client.setBreakpointsRequest({ source: { path: program }, breakpoints: [{ line: 14 }, { line: 26 }] }),
    );
    stop = await client.until(() => client.continueRequest({ threadId: stop.threadId }));
    assert.equal((await client.frames(stop.threadId))[0].name, "book: shop.note");
    stop = await client.until(() => client.reverseContinueRequest({ threadId: stop.threadId }));
    assert.deepEqual([stop.reason, (await client.frames(stop.threadId))[0].line], ["breakpoint", 14]);
    const inputs = await client.scope(stop.threadId, "Inputs");
    assert.equal(inputs.cents.value, "750");
    await assert.rejects(client.setVariableRequest({ variablesReference: inputs.reference, name: "cents", value: "1" }), /cannot be changed/);
    stop = await client.until(() => client.stepBackRequest({ threadId: stop.threadId }));
    assert.match(stop.text, /buy\/pay is held/);
    stop = await client.until(() => client.nextRequest({ threadId: stop.threadId }));
    assert.match(stop.text, /buy\/pay begins/);
    stop = await client.until(() => client.continueRequest({ threadId: stop.threadId }));
    assert.equal((await client.frames(stop.threadId))[0].name, "book: shop.note");
    stop = await client.until(() => client.continueRequest({ threadId: stop.threadId }));
    assert.equal(stop.reason, "exit");
    stop = await client.until(() => client.reverseContinueRequest({ threadId: stop.threadId }));
    assert.equal(stop.reason, "breakpoint");
  },

  // ARGUMENT is a run that is over.
  async "a run that is over is looked at from its beginning"(client) {
    const { program: _, ...rest } = launchArguments;
    let stop = await client.go(
      { ...rest, run: argument },
      () => client.setFunctionBreakpointsRequest({ breakpoints: [{ name: "tell.*" }] }),
      "attach",
    );
    assert.equal(stop.reason, "entry");
    stop = await client.until(() => client.continueRequest({ threadId: stop.threadId }));
    assert.equal(stop.reason, "breakpoint");
    const [frame] = await client.frames(stop.threadId);
    assert.equal(frame.line, 22);
    const { content } = (await client.sourceRequest({ sourceReference: frame.source.sourceReference, source: frame.source })).body;
    assert.match(content, /^workflow:/);
    await client.disconnectRequest();
  },

  // ARGUMENT is a run that another process drives; its task `slow` goes on.
  async "a run of another process is stopped, paused and given back"(client) {
    const fs = require("fs");
    const { program: _, ...rest } = launchArguments;
    const attached = client.go({ ...rest, run: argument }, undefined, "attach");
    await client.waitForEvent("process");
    const paused = await client.until(() => client.pauseRequest({ threadId: 1 }));
    assert.equal(paused.reason, "pause");
    assert.match((await client.threadsRequest()).body.threads[0].name, /slow \(running\)/);
    await attached;
    const stop = await client.until(async () => {
      await client.nextRequest({ threadId: paused.threadId });
      fs.writeFileSync(path.join(folder, "go"), "");
    });
    assert.equal((await client.frames(stop.threadId))[0].name, "after: shop.note");
    await client.disconnectRequest();
  },

  async "what is wrong is said in the answer"(client) {
    await assert.rejects(client.customRequest("launch", { program: 7 }), /'program' is missing/);
    await assert.rejects(client.threadsRequest().then(() => client.customRequest("flyToTheMoon")), /'flyToTheMoon' is not known/);
    await assert.rejects(client.nextRequest({ threadId: 1 }), /the run has not begun/);
    await assert.rejects(client.launchRequest({ ...launchArguments, program: path.join(folder, "nope.yaml") }), /nope.yaml/);
    await assert.rejects(client.launchRequest({ ...launchArguments, program: path.join(folder, "shop.py") }), /shop.py:/);
    await client.launchRequest(launchArguments);
    await assert.rejects(client.launchRequest(launchArguments), /one launch or attach/);
    await assert.rejects(client.setExceptionBreakpointsRequest({ filters: ["sunshine"] }), /'sunshine' is not known/);
    const gone = new Promise((done) => client._adapterProcess.on("exit", done));
    await client.disconnectRequest();
    assert.equal(await gone, 0);
  },
};

async function main() {
  if (name === "names") {
    console.log(Object.keys(scenarios).join("\n"));
    return;
  }
  const client = new Client();
  client.begin();
  try {
    await scenarios[name](client);
  } catch (error) {
    console.error(client.seen.map((message) => JSON.stringify(message)).join("\n"));
    throw error;
  } finally {
    await client.stop();
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
