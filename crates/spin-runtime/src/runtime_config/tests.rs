use super::*;

fn parse(text: &str) -> anyhow::Result<RuntimeConfig> {
    RuntimeConfig::parse(text, "/config/runtime-config.toml")
}

#[track_caller]
fn errors(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        state_dir = "/var/app"
        log_dir = "/var/log/app"
        max_instance_memory = 1048576
        [key_value_store.default]
        type = "redis"
        url = "redis://user:secret@localhost"
        [key_value_store.file]
        type = "spin"
        path = "data/kv.db"
        [key_value_store.memory]
        type = "spin"
        [sqlite_database.default]
        type = "spin"
        path = "/data/app.db"
        allow_attach_file = true
        [sqlite_database.memory]
        type = "spin"
        [[variables_provider]]
        type = "static"
        values = { greeting = "secret" }
        [[variables_provider]]
        type = "env"
        [[variables_provider]]
        type = "env"
        prefix = "APP"
        dotenv_path = "/config/.env"
        [outbound_redis]
        max_connections = 3
        [outbound_networking]
        block_networks = []
        max_total_connections = 3
        [outbound_http]
        connection_pooling = true
        [llm_compute]
        type = "spin"
        "#,
    )
    .unwrap();
    assert_eq!(config.state_dir, Some("/var/app".into()));
    assert_eq!(config.log_dir, Some("/var/log/app".into()));
    assert_eq!(config.max_instance_memory, Some(1 << 20));
    let file = |path: Option<&str>| KeyValueStore::Sqlite {
        path: path.map(Into::into),
    };
    let url = "redis://user:secret@localhost".to_owned();
    assert_eq!(
        config.key_value_stores,
        BTreeMap::from([
            ("default".into(), KeyValueStore::Redis { url }),
            ("file".into(), file(Some("/config/data/kv.db"))),
            ("memory".into(), file(None)),
        ])
    );
    let default = SqliteDatabase {
        path: Some("/data/app.db".into()),
        allow_attach_file: true,
    };
    assert_eq!(
        config.sqlite_databases,
        BTreeMap::from([
            ("default".into(), default),
            ("memory".into(), SqliteDatabase::default()),
        ])
    );
    let environment = |prefix: &str, dot_env: Option<&str>| VariableProvider::Environment {
        prefix: prefix.into(),
        dot_env: dot_env.map(Into::into),
    };
    let values = BTreeMap::from([("greeting".into(), "secret".into())]);
    assert_eq!(
        config.variable_providers,
        [
            VariableProvider::Static(values),
            environment("SPIN_VARIABLE", None),
            environment("APP", Some("/config/.env")),
        ]
    );
    assert_eq!(config.redis_connections, Some(3));
    assert_eq!(
        config.warnings,
        [
            "line 32 of the runtime configuration: outbound_networking.max_total_connections has no effect in this host",
            "line 34 of the runtime configuration: outbound_http.connection_pooling has no effect in this host",
            "line 35 of the runtime configuration: llm_compute has no effect in this host",
        ]
    );
    let debug = format!("{config:?}");
    assert!(!debug.contains("secret"), "{debug}");
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse("").unwrap(), RuntimeConfig::default());
}

#[test]
fn paths_are_relative_to_the_folder_that_spin_uses() {
    let text = "state_dir = \"state\"\n\
        key_value_store.a = { type = \"spin\", path = \"a.db\" }\n\
        sqlite_database.a = { type = \"spin\", path = \"a.db\" }";
    let config = RuntimeConfig::parse(text, "conf/runtime-config.toml").unwrap();
    let current = std::env::current_dir().unwrap();
    assert_eq!(config.state_dir, Some(current.join("state")));
    let path = Some(current.join("conf/a.db"));
    assert_eq!(config.key_value_stores["a"], KeyValueStore::Sqlite { path });
    let path = Some(current.join("a.db"));
    assert_eq!(config.sqlite_databases["a"].path, path);
}

#[test]
fn an_empty_log_dir_means_no_log_files() {
    let config = parse("log_dir = \"\"").unwrap();
    assert_eq!(config.log_dir, Some(PathBuf::new()));
}

#[test]
fn the_older_name_of_providers_is_known() {
    let old = "[[config_provider]]\ntype = \"env\"\n";
    assert_eq!(parse(old).unwrap().variable_providers.len(), 1);
    let both = format!("{old}[[variables_provider]]\ntype = \"static\"\nvalues = {{}}\n");
    let providers = parse(&both).unwrap().variable_providers;
    assert_eq!(providers, [VariableProvider::Static(BTreeMap::new())]);
}

#[test]
fn every_problem_is_reported_with_its_position() {
    let text = r#"
state_dirs = "a"
state_dir = ""
max_instance_memory = 0
key_value_store.a = { type = "sqlite" }
key_value_store.b = { type = "redis" }
key_value_store.c = { type = "spin", url = "a" }
key_value_store.d = { type = "azure_cosmos", key = "a" }
key_value_store.e = { path = "a.db" }
sqlite_database.a = { type = "libsql", url = "http://localhost", token = "t" }
sqlite_database.b = { type = "spin", path = "" }
variables_provider = [{ type = "vault" }, { type = "envs" }, { type = "static" }]
client_tls = []
outbound_networking.block_networks = ["private"]
outbound_redis.max_connections = -1
outbound_http.max_connections = 0
outbound_networking.max_total_connections = 0
"#;
    let errors = errors(text);
    let lines: Vec<&str> = errors.lines().collect();
    let expected = [
        "2: state_dirs: unknown key (did you mean `state_dir`?)",
        "3: state_dir: an empty path",
        "4: max_instance_memory: expected a number of bytes, found 0",
        "5: key_value_store.a.type: unknown type \"sqlite\"; expected spin or redis",
        "6: key_value_store.b: `url` is missing: the server, such as \"redis://localhost:6379\"",
        "7: key_value_store.c.url: unknown key; expected one of type, path",
        "8: key_value_store.d.type: type \"azure_cosmos\" is not supported, only spin and redis; start with --spin",
        "9: key_value_store.e: `type` is missing: \"spin\" for a SQLite file, or \"redis\"",
        "10: sqlite_database.a.type: type \"libsql\" is not supported, only spin; start with --spin",
        "11: sqlite_database.b.path: expected the path of a file, found an empty string",
        "12: variables_provider[0].type: type \"vault\" is not supported, only static and env",
        "12: variables_provider[1].type: unknown type \"envs\" (did you mean `env`?)",
        "12: variables_provider[2]: `values` is missing",
        "13: client_tls: certificates for outgoing requests are not supported",
        "14: outbound_networking.block_networks: blocked networks are not supported",
        "15: outbound_redis.max_connections: expected a number of at least 0, found -1",
        "16: outbound_http.max_connections: 0, with which Spin opens no connections, is not",
        "17: outbound_networking.max_total_connections: 0, with which Spin opens no connections",
    ];
    assert_eq!(lines.len(), expected.len(), "{errors}");
    for (line, expected) in lines.iter().zip(expected) {
        let expected = format!("/config/runtime-config.toml:{expected}");
        assert!(line.starts_with(&expected), "{line}\n{expected}");
    }
}

#[test]
fn invalid_toml_is_reported_with_its_position() {
    assert!(errors("state_dir = ").starts_with("/config/runtime-config.toml:1: "));
    let error = RuntimeConfig::load("/nothing/here.toml").unwrap_err();
    assert!(
        format!("{error:#}").contains("/nothing/here.toml"),
        "{error:#}"
    );
}

#[test]
fn a_check_uses_no_files() {
    let text = "log_dir = \"logs\"\n\
        key_value_store.a = { type = \"spin\", path = \"a.db\" }\n\
        sqlite_database.a = { type = \"spin\", path = \"a.db\" }";
    let config = parse(text).unwrap().in_memory();
    assert_eq!(config.log_dir, None);
    assert_eq!(
        config.key_value_stores["a"],
        KeyValueStore::Sqlite { path: None }
    );
    assert_eq!(config.sqlite_databases["a"], SqliteDatabase::default());
}
