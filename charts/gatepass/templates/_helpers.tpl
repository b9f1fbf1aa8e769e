{{/* The name of everything: the release's, with `gatepass` in it. Short enough for what is appended to it. */}}
{{- define "gatepass.name" -}}
{{- $name := ternary .Release.Name (printf "%s-gatepass" .Release.Name) (contains "gatepass" .Release.Name) -}}
{{- $name | trunc 54 | trimSuffix "-" -}}
{{- end -}}

{{- define "gatepass.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "gatepass.name" .) -}}
{{- end -}}

{{- define "gatepass.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "gatepass.selectorLabels" -}}
app.kubernetes.io/name: gatepass
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gatepass.labels" -}}
{{ include "gatepass.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The namespaces that are served, as a selector. */}}
{{- define "gatepass.namespaceSelector" -}}
{{- if .Values.watchNamespaces -}}
{{- $served := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" .Values.watchNamespaces -}}
{{- dict "matchExpressions" (list $served) | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* The version of MutatingAdmissionPolicy that the cluster has, if any: v1 since 1.36, before that only if switched on. */}}
{{- define "gatepass.mutatingVersion" -}}
{{- $group := "admissionregistration.k8s.io" -}}
{{- if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
{{ $group }}/v1
{{- else if .Capabilities.APIVersions.Has (printf "%s/v1beta1/MutatingAdmissionPolicy" $group) -}}
{{ $group }}/v1beta1
{{- end -}}
{{- end -}}

{{/* A file that the chart has in common with `gatepass manifests`: (list . "rbac.yaml"). */}}
{{- define "gatepass.file" -}}
{{- $root := index . 0 -}}
{{- $root.Files.Get (printf "files/%s" (index . 1))
  | replace "${NAME}" (include "gatepass.name" $root)
  | replace "${NAMESPACE}" $root.Release.Namespace
  | replace "${SERVICE_ACCOUNT}" (include "gatepass.serviceAccountName" $root)
  | replace "${NAMESPACE_SELECTOR}" (include "gatepass.namespaceSelector" $root) -}}
{{- end -}}

{{/* Binds a ClusterRole in the namespaces that are served: (list . role account extra-metadata). */}}
{{- define "gatepass.bindServed" -}}
{{- $root := index . 0 -}}
{{- range $namespace := $root.Values.watchNamespaces | default (list "") }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "RoleBinding" "ClusterRoleBinding" (ne $namespace "") }}
metadata:
  name: {{ index $ 1 }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  {{- with index $ 3 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ index $ 1 }}
subjects:
  - kind: ServiceAccount
    name: {{ index $ 2 }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- end -}}

{{/* The settings, as environment variables. */}}
{{- define "gatepass.env" -}}
- name: GATEPASS_NAMESPACE
  value: {{ .Release.Namespace }}
- name: GATEPASS_RELEASE
  value: {{ include "gatepass.name" . }}
{{- with .Values.installId }}
- name: GATEPASS_INSTALL_ID
  value: {{ . | quote }}
{{- end }}
- name: GATEPASS_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: GATEPASS_RESYNC_SECONDS
  value: {{ .Values.resyncSeconds | int64 | quote }}
- name: GATEPASS_LEASE_SECONDS
  value: {{ .Values.leaseSeconds | int64 | quote }}
{{- with .Values.credentialsNamespaces }}
- name: GATEPASS_CREDENTIALS_NAMESPACES
  value: {{ toJson . | quote }}
{{- end }}
- name: GATEPASS_SWITCH_ROLES
  value: {{ join "," .Values.switchRoles | quote }}
- name: GATEPASS_DEFAULT_TTL_AFTER_ENDED
  value: {{ .Values.defaultTtlAfterEnded | quote }}
- name: GATEPASS_LOG_FORMAT
  value: {{ .Values.logFormat }}
- name: GATEPASS_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: GATEPASS_HEALTH_PORT
  value: {{ .Values.healthPort | int64 | quote }}
- name: GATEPASS_METRICS_PORT
  value: {{ .Values.metricsPort | int64 | quote }}
- name: GATEPASS_ADMISSION_UNVERIFIED
  value: {{ .Values.admissionUnverified | quote }}
- name: GATEPASS_API_PORT
  value: {{ .Values.apiPort | int64 | quote }}
- name: GATEPASS_TRUSTED_PROXIES
  value: {{ join "," .Values.trustedProxies | quote }}
{{- with .Values.publicUrl }}
- name: GATEPASS_PUBLIC_URL
  value: {{ . | quote }}
{{- end }}
- name: GATEPASS_ECHO_URLS
  value: {{ join "," .Values.echoUrls | quote }}
- name: GATEPASS_RATE_LIMIT
  value: {{ .Values.rateLimit | int64 | quote }}
- name: GATEPASS_OIDC_ISSUERS
  value: {{ join "," .Values.oidcIssuers | quote }}
- name: GATEPASS_OIDC_PRIVATE_ISSUERS
  value: {{ join "," .Values.oidcPrivateIssuers | quote }}
- name: GATEPASS_CORS_ORIGINS
  value: {{ join "," .Values.corsOrigins | quote }}
{{- end -}}

{{/* What of the REST API is in objects of its own. */}}
{{- define "gatepass.apiEnv" -}}
{{- with .Values.rateLimitStorageSecret }}
- name: GATEPASS_RATE_LIMIT_STORAGE
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
{{- end }}
{{- if .Values.oidcCaConfigMap }}
- name: GATEPASS_OIDC_CA_FILE
  value: /etc/gatepass/oidc/ca.crt
{{- end }}
{{- end -}}

{{/* The Secret with the certificate of the Ingress, if it has one. */}}
{{- define "gatepass.tlsSecretName" -}}
{{- $own := ternary (printf "%s-tls" (include "gatepass.name" .)) "" .Values.certificate.enabled -}}
{{- .Values.ingress.tlsSecretName | default $own -}}
{{- end -}}

{{/* Where the audit trail is. */}}
{{- define "gatepass.auditEnv" -}}
- name: GATEPASS_AUDIT_KEY_FILE
  value: /etc/gatepass/audit/keys
- name: GATEPASS_DATABASE_URL
  {{- if .Values.audit.databaseSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.audit.databaseSecret }}
      key: url
  {{- else }}
  value: sqlite:////var/lib/gatepass/audit.db
  {{- end }}
- name: GATEPASS_AUDIT_REQUIRED
  value: {{ .Values.audit.required | quote }}
- name: GATEPASS_AUDIT_RETENTION
  value: {{ .Values.audit.retention | quote }}
{{- end -}}

{{/* What the operator's pod and the one that drains have in common. */}}
{{- define "gatepass.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "gatepass.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}
