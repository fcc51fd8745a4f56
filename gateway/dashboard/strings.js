// Every word of the page, in each language. {name} is replaced by a value.

const STATES_EN = {
  queued: "queued", dispatched: "sent to a board", running: "on a board", done: "labelled", delivered: "delivered",
  failed: "failed", expired: "expired", cancelled: "cancelled",
};
const STATES_ZH = {
  queued: "排队中", dispatched: "已发往设备", running: "设备处理中", done: "已标注", delivered: "已交付",
  failed: "失败", expired: "已过期", cancelled: "已取消",
};
const PROBLEMS_EN = {
  devices_silent: "{n} silent: {devices}", devices_unhealthy: "{n} unhealthy: {devices}", no_device_ready: "No device is ready.",
  idle_fleet: "{n} queued tasks wait and no device takes work ({standings}): uncordon one, or look at the boards.",
  idle_model: "{n} queued tasks of model {model} wait and no device that takes work can run it: add its build to a board, give one that has it work again, or cancel them.",
  undelivered: "{n} labelled tasks are not delivered, the oldest for {seconds} s: start their receiver, or give up their delivery.",
};
const PROBLEMS_ZH = {
  devices_silent: "{n} 台设备失联：{devices}", devices_unhealthy: "{n} 台设备异常：{devices}", no_device_ready: "没有就绪的设备。",
  idle_fleet: "{n} 个任务在排队，但没有设备接受任务（{standings}）：恢复派发其中一台，或检查设备。",
  idle_model: "模型 {model} 有 {n} 个任务在排队，但没有接受任务的设备能运行它：给设备添加该模型的构建，恢复派发有它的设备，或取消这些任务。",
  undelivered: "{n} 个已标注的任务没有交付，最久的已等 {seconds} 秒：启动它们的接收方，或放弃交付。",
};
const WORKERS_EN = {
  starting: "starting", ready: "ready", busy: "busy", stopping: "stopping", restarting: "restarting", stopped: "stopped", down: "down",
};
const WORKERS_ZH = {
  starting: "启动中", ready: "就绪", busy: "工作中", stopping: "停止中", restarting: "重启中", stopped: "已停止", down: "已放弃",
};
const COMMANDS_EN = {
  pending: "waiting for the board", delivered: "the board is at it", done: "done", failed: "failed", expired: "expired", superseded: "replaced",
};
const COMMANDS_ZH = {
  pending: "等待设备领取", delivered: "设备执行中", done: "完成", failed: "失败", expired: "已过期", superseded: "已被取代",
};
const named = (prefix, words) => Object.fromEntries(Object.entries(words).map(([key, text]) => [prefix + key, text]));

export const STRINGS = {
  en: {
    languageName: "English", skip: "Skip to the devices", skipToTasks: "Skip to the tasks", api: "API", metrics: "Metrics", now: "Now",
    live: "live", connecting: "connecting…", lost: "connection lost, trying again",
    noGateway: "the gateway does not answer: try again in a moment", away: "The task manager does not answer: {reason}", notKnown: "Not known while the task manager does not answer.", lostBanner: "The gateway does not answer. What you see is old; this page tries again by itself.",
    throughput: "Pictures per second", latency: "From sending out to labels, in ms", labelled: "labelled", failedPerS: "failed attempts",
    typical: "half are faster than", slow: "95 % are faster than", chartWaits: "The line begins with the first pictures.", nowTick: "now",
    chartSummary: "{title}: now {now}, at most {max} in the last ten minutes", minutesAgo: "{n} min",
    devices: "Devices", deviceCount: "{ready} of {all} ready", filter: "Filter devices", noMatch: "No device matches the filter.", allDevices: "Show all {n} devices",
    noDevices: "No device has registered yet.", noDevicesNext: "Start an agent on each board and name this gateway:",
    noDevicesEmulate: "Or try it with an emulated board on this machine:",
    ready: "ready", unhealthy: "unhealthy", silent: "silent", cordoned: "cordoned", draining: "draining", drained: "drained, may be switched off",
    resting: "model {model} paused after {n} failures in a row", emulated: "emulated", simulated: "simulated: {what}", cpu: "CPU", memory: "Memory", xpu: "XPU",
    window: "In flight", temperature: "Temp.", link: "Link", rate: "Pictures/s", heartbeat: "Heartbeat",
    workers: "Workers", worker: "{name}: {state}, {n} restarts", outbox: "{n} in the outbox", cordon: "Cordon", uncordon: "Uncordon", drain: "Drain",
    cordonHint: "Give it no new work", uncordonHint: "Let it work again", drainHint: "Give it no new work and let it finish",
    told: "{device}: {what}", tileReady: "devices ready", tileRate: "pictures/s", tileLatency: "p95 latency", tileQueued: "queued", tileBusy: "in flight",
    tileFailed: "dead letters", tryTitle: "Try a picture", dropHere: "Drop pictures here", dropOr: "or choose files", model: "Model",
    modelIdle: "{model} (no device ready)", noModel: "The catalogue has no model: add one to the models directory of the task manager.", sending: "Sending {n}…", sent: "{n} sent.", sendFailed: "{file}: {why}", tooMany: "At most {n} pictures at once; the first {n} are sent.",
    gallery: "Just labelled", noGallery: "Nothing is labelled yet. Drop a picture in the field “Try a picture”.", boxes: "{n} found in {file}",
    queue: "Tasks by state", byLine: "Queue by model and priority", priority: "Priority", priority_low: "low", priority_normal: "normal", priority_high: "high", noQueue: "Nothing waits.", deadLetters: "Dead letters", replayAll: "Replay all shown", replay: "Replay",
    noDead: "None. A picture that no board can label ends here, with the cause of every attempt.", replayed: "{n} queued again",
    recent: "Recent tasks", state: "State", allStates: "all", file: "File", device: "Device", size: "Size", took: "Took", changed: "Changed",
    findTask: "Task id", noTaskFits: "No task fits.", noTasks: "No tasks. Drop a picture above, or send some from a terminal (--port if the task manager is not on 9999):", close: "Close",
    task: "Task {id}", picture: "Picture", pictureGone: "The picture was let go.", labels: "Labels", noLabelsYet: "No labels yet.", nothingFound: "The model found nothing in it.",
    timeline: "Its life", attempts: "Attempts", noAttempts: "It was not sent to a board yet.", attempt: "Attempt {n} on {device}", why: "Why this device: {reason}", whyDevice: "Why this device",
    waited: "Queued", transfer: "Transferred", notMeasured: "not timed", boardQueue: "Waited on the board", decode: "Decoded", preprocess: "Prepared", infer: "Inferred", postprocess: "Boxes read",
    way: "The rest: network and ledger", delivery: "Delivered", won: "labels taken", open: "still open", cancel: "Cancel", abandon: "Give up delivery",
    client: "Client", receiver: "Receiver", noReceiver: "none: labels are read here", created: "Accepted", waits: "Waits because", error: "Last error", confidence: "{label} {percent}",
    openDevice: "Workers and logs", kind: "Type", address: "Address", models: "Models", labelsOf: "Labels", leftOut: "Not loaded", warning: "Warning", allWorkers: "all workers", allOf: "all workers of {device}",
    start: "Start", stop: "Stop", restart: "Restart", kill: "Kill", startHint: "Start what is stopped", stopHint: "Stop after the task in hand; it stays stopped until it is started", restartHint: "Stop after the task in hand, then start again", killHint: "End it at once; the picture in hand goes elsewhere, and it stays ended until it is started",
    stopSure: "Stop {whom}? It gets no work until it is started again.", killSure: "Kill {whom} at once? The picture in hand goes elsewhere, and it stays ended until it is started again.",
    process: "process", currentTask: "task", noProcess: "no process", restarts: "restarts: {n}", exitCodes: "exit codes:", signal: "signal {n}", boardSilent: "board silent (was {state})", noWorkers: "The board has not told of its workers yet.", told_before: "What was told lately",
    log: "Log", logOf: "of", follow: "Follow", noLog: "Nothing was written yet.",
    ...named("problem_", PROBLEMS_EN), ...named("state_", STATES_EN), ...named("worker_", WORKERS_EN), ...named("command_", COMMANDS_EN),
  },
  zh: {
    languageName: "中文", skip: "跳到设备", skipToTasks: "跳到任务", api: "接口", metrics: "指标", now: "现状",
    live: "实时", connecting: "正在连接…", lost: "连接中断，正在重试",
    noGateway: "网关没有响应，请稍后再试", away: "任务管理器没有响应：{reason}", notKnown: "任务管理器没有响应，暂时无法得知。", lostBanner: "网关没有响应，下面是旧数据；页面会自动重试。",
    throughput: "每秒图片数", latency: "从派发到出标签（毫秒）", labelled: "已标注", failedPerS: "失败的尝试",
    typical: "一半快于", slow: "95% 快于", chartWaits: "有图片之后，这里会出现曲线。", nowTick: "现在",
    chartSummary: "{title}：现在 {now}，最近十分钟最高 {max}", minutesAgo: "{n} 分钟",
    devices: "设备", deviceCount: "共 {all} 台，{ready} 台就绪", filter: "筛选设备", noMatch: "没有符合条件的设备。", allDevices: "显示全部 {n} 台设备",
    noDevices: "还没有设备注册。", noDevicesNext: "在每块板子上启动代理，并指向这个网关：",
    noDevicesEmulate: "也可以先在本机用模拟板试一试：",
    ready: "就绪", unhealthy: "异常", silent: "失联", cordoned: "已停止派发", draining: "排空中", drained: "已排空，可以关机",
    resting: "模型 {model} 连续失败 {n} 次，暂停派发该模型", emulated: "模拟", simulated: "测试干扰：{what}", cpu: "CPU", memory: "内存", xpu: "XPU",
    window: "在途", temperature: "温度", link: "链路", rate: "图片/秒", heartbeat: "心跳",
    workers: "工作进程", worker: "{name}：{state}，重启 {n} 次", outbox: "发件箱 {n} 条", cordon: "停止派发", uncordon: "恢复派发", drain: "排空",
    cordonHint: "不再给它新任务", uncordonHint: "让它继续工作", drainHint: "不再给它新任务，做完手头的为止",
    told: "{device}：{what}", tileReady: "设备就绪", tileRate: "图片/秒", tileLatency: "p95 延迟", tileQueued: "排队", tileBusy: "在途",
    tileFailed: "死信", tryTitle: "试一张图片", dropHere: "把图片拖到这里", dropOr: "或选择文件", model: "模型",
    modelIdle: "{model}（无就绪设备）", noModel: "目录里没有模型：请放一个到任务管理器的模型目录。", sending: "正在发送 {n} 张…", sent: "已发送 {n} 张。", sendFailed: "{file}：{why}", tooMany: "一次最多 {n} 张，只发送前 {n} 张。",
    gallery: "刚刚标注", noGallery: "还没有标注结果。把图片拖到“试一张图片”里。", boxes: "{file} 中找到 {n} 个",
    queue: "各状态的任务", byLine: "按模型和优先级排队", priority: "优先级", priority_low: "低", priority_normal: "普通", priority_high: "高", noQueue: "没有等待的任务。", deadLetters: "死信", replayAll: "全部重放", replay: "重放",
    noDead: "没有。哪块板子都标不了的图片会留在这里，并附上每次尝试的原因。", replayed: "{n} 个任务重新排队",
    recent: "最近的任务", state: "状态", allStates: "全部", file: "文件", device: "设备", size: "大小", took: "用时", changed: "变化",
    findTask: "任务编号", noTaskFits: "没有符合条件的任务。", noTasks: "没有任务。把图片拖到上面，或在终端里发送（任务管理器不在 9999 端口时加 --port）：", close: "关闭",
    task: "任务 {id}", picture: "图片", pictureGone: "图片已清理。", labels: "标签", noLabelsYet: "还没有标签。", nothingFound: "模型在图中没有找到任何东西。",
    timeline: "任务的一生", attempts: "尝试", noAttempts: "还没有发给任何设备。", attempt: "第 {n} 次尝试，{device}", why: "选它的原因：{reason}", whyDevice: "选它的原因",
    waited: "排队", transfer: "传输", notMeasured: "未计时", boardQueue: "在板上等待", decode: "解码", preprocess: "预处理", infer: "推理", postprocess: "解析框",
    way: "其余：网络与账本", delivery: "交付", won: "采用了它的标签", open: "未结束", cancel: "取消", abandon: "放弃交付",
    client: "客户端", receiver: "接收方", noReceiver: "无：在这里看标签", created: "接收时间", waits: "等待原因", error: "最近的错误", confidence: "{label} {percent}",
    openDevice: "工作进程与日志", kind: "类型", address: "地址", models: "模型", labelsOf: "标签", leftOut: "未加载", warning: "警告", allWorkers: "全部工作进程", allOf: "{device} 的全部工作进程",
    start: "启动", stop: "停止", restart: "重启", kill: "强制结束", startHint: "启动已停止的进程", stopHint: "做完手头的任务后停止；再次启动前不会工作", restartHint: "做完手头的任务后重新启动", killHint: "立即结束；手头的图片交给别处，再次启动前不会工作",
    stopSure: "停止{whom}？再次启动之前不会接到任务。", killSure: "立即结束{whom}？手头的图片交给别处，再次启动之前不会工作。",
    process: "进程", currentTask: "任务", noProcess: "没有进程", restarts: "重启 {n} 次", exitCodes: "退出码：", signal: "信号 {n}", boardSilent: "设备失联（此前：{state}）", noWorkers: "设备还没有报告工作进程。", told_before: "最近的指令",
    log: "日志", logOf: "来源", follow: "跟随", noLog: "还没有内容。",
    ...named("problem_", PROBLEMS_ZH), ...named("state_", STATES_ZH), ...named("worker_", WORKERS_ZH), ...named("command_", COMMANDS_ZH),
  },
};

const KEPT_AS = "edgesched-language";

function firstLanguage() {
  const kept = localStorage.getItem(KEPT_AS);
  if (kept in STRINGS) return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

let language = firstLanguage();

export const otherLanguage = () => (language === "en" ? "zh" : "en");

export function setLanguage(name) {
  language = name;
  localStorage.setItem(KEPT_AS, name);
}

/** The word for what a board or the gateway calls `name`; as it is, if they are newer than this page. */
export const word = (kind, name) => STRINGS[language][`${kind}_${name}`] ?? name;

/** Whether there are words for a key: what comes from the gateway may be newer than this page. */
export const has = (key) => key in STRINGS[language];

/** The words behind a key. */
export function t(key, values = {}) {
  return STRINGS[language][key].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** What index.html marks with data-t, data-t-placeholder and data-t-label. */
export function translatePage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
}

// --- numbers. What is not known is a dash, never 0 ---

export const UNKNOWN = "–";
const known = (value) => value !== null && value !== undefined;

export const percent = (fraction) => (known(fraction) ? `${Math.round(fraction * 100)} %` : UNKNOWN);
export const plain = (value, digits = 0) => (known(value) ? value.toFixed(digits) : UNKNOWN);
export const withUnit = (value, unit, digits = 0) => (known(value) ? `${value.toFixed(digits)} ${unit}` : UNKNOWN);

export function duration(ms) {
  if (!known(ms)) return UNKNOWN;
  if (ms < 9.95) return `${Math.max(0, ms).toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return ms < 172_800_000 ? `${(ms / 3_600_000).toFixed(1)} h` : `${Math.round(ms / 86_400_000)} d`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1_000_000 ? `${Math.round(count / 1000)} kB` : `${(count / 1_000_000).toFixed(1)} MB`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString(language === "zh" ? "zh-CN" : "en-GB");
